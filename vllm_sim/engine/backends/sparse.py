"""Steps of vLLM's scheduler that it need not see: sparse stepping, the normal way of the `engine` backend.

A request that decodes and does not end is the same after a step but for one token more and, at the edge of a block,
one block taken or cached. Such a request is quiet. Here upstream's scheduler is shown only the requests that are not:
those that start, prefill or end. What a step does for quiet ones follows from the number of the step.

Faithful to vLLM 0.32 (v1/core/sched/scheduler.py schedule, _update_after_schedule, update_from_output, sched/utils.py
check_stop, sched/async_scheduler.py, v1/core/kv_cache_manager.py, single_type_kv_cache_manager.py and v1/request.py,
read), bit for bit, because:

- Upstream calls KVCacheManager.allocate_slots(request, 1) in each step. Of `computed` tokens, that takes a block where
  computed % B == 0 and caches one where (computed + 1) % B == 0; else it changes nothing. Here both are done by what it
  calls for it, FullAttentionManager.allocate_new_blocks and cache_blocks, just in those steps and in upstream's order:
  by step, then by the place in `Scheduler.running`. Once more in the same step allocate_slots does nothing, so that a
  request which upstream is to see is served beforehand with the others, in its turn.
- A request's tokens and block hashes come by upstream's Request.append_output_token_ids, several at once, before a
  block is cached and before upstream sees it; num_computed_tokens is set then. Nothing else of it changes in a step.
- The step in which a request ends is known (check_stop: an end token, max_tokens, max_model_len). Where upstream need
  see nothing else of it, the request is ended by the functions that update_from_output calls for it, in its order:
  _update_request_with_output and _free_request for each, then remove_all.
- Quiet requests are the first of `running`, since a prompt that is cut has used up its step's tokens and is the last.
  So the hidden ones take one token and one place each before the others get any: where upstream sees a step, its
  max_num_scheduled_tokens and max_num_active_reqs are lowered by their number for this one call.
- A step with fewer free blocks than the quiet ones take preempts: then upstream sees everything.
- Nobody waits in a skipped step, or the head of `waiting` is known to get no blocks: it was refused, nobody has given
  blocks back since, it still is the head, and the block after its hit is not cached. Taking a block lowers what is
  free by one, and what the head needs by one at most. This is checked after the step's own blocks are served: one that
  is cached in a step can be hit in it.

Asynchronous scheduling is the same but for this. Upstream's step s schedules batch s and then ends batch s - 1, so that
between two steps a quiet request has one token in flight: num_computed_tokens is num_tokens, num_output_placeholders
and num_in_flight_tokens are 1.

- AsyncScheduler caches what is known, min(computed + 1, num_tokens) tokens. So a block is cached where the next one is
  taken, after it, computed % B == 0; when a token comes, only the block of a request that ends can be new.
- A request whose token in flight ends it by max_tokens or max_model_len is not scheduled: it rests. One that an end
  token ends is scheduled once more, and counts in that step's load.
- Batch s - 1 is in EngineCore.batch_queue while step s is scheduled. Upstream ends it for the requests that it is shown
  in step s, whether or not it was shown them in step s - 1, and for no hidden ones: in_flight.py.

When this holds, and what steps plainly: stepping.py. Not kept in a step that is skipped: prev_step_scheduled_req_ids of
the scheduler and what its output would tell a worker, which the replay executor does not read.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vllm.v1.core.kv_cache_utils import BlockHash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.sched.utils import remove_all
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from vllm_sim.engine import compat
from vllm_sim.engine.backends.in_flight import InFlight
from vllm_sim.engine.backends.lanes import Lane, is_quiet, last_output, longest_output
from vllm_sim.engine.backends.ledger import Ledger
from vllm_sim.engine.executor import ReplayExecutor
from vllm_sim.engine.pool import PolicyBlockPool
from vllm_sim.step_load import StepLoad, decode_load


class Skipped(NamedTuple):
    """A step that upstream was not shown."""

    load: StepLoad
    """What it computed."""
    ended: list[str]
    """Requests that ended in it, in their order."""


class _Refused(NamedTuple):
    """The head of `waiting`, which got no blocks."""

    head: Request
    after: BlockHash | None
    """Of the block after its hit; None where a longer hit is not allowed."""


class SparseSteps:
    """Which requests the scheduler need not see, and what happens to them.

    Args:
        core: Upstream's; its scheduler is changed.
        executor: It knows the answers.
        ledger: Watches the scheduler's manager already; None for none.
    """

    def __init__(self, core: EngineCore, executor: ReplayExecutor, ledger: Ledger | None):
        assert isinstance(core.scheduler, Scheduler)
        scheduler = self.scheduler = core.scheduler
        self.executor, self.ledger = executor, ledger
        self._in_flight = None if core.batch_queue is None else InFlight(core)
        self._ahead = 0 if core.batch_queue is None else 1
        """Steps that upstream schedules before the tokens of one have come."""
        self.step = 0
        """The next step; all before it have run."""
        self._manager = scheduler.kv_cache_manager
        (self._single,) = self._manager.coordinator.single_type_managers
        self._pool = self._manager.block_pool
        self._policy_pool = self._pool if isinstance(self._pool, PolicyBlockPool) else None
        self._block_size = scheduler.block_size
        self._lanes: dict[int, Lane] = {}
        """By their numbers, ascending: the first of `running`."""
        self._numbers: list[int] = []
        self._phases: list[dict[int, Lane]] = [{} for _ in range(self._block_size)]
        """Lanes by the remainder, divided by the block size, of the steps in which they take a block."""
        self._ends: dict[int, list[Lane]] = {}
        """Lanes by the step in which they end, in the order of `running`."""
        self._origins = self._last_number = self._skipped = 0
        self._is_served = False
        """Whether the lanes have the blocks of the next step."""
        self._refused: _Refused | None = None
        self._hidden: list[Request] = []
        self._added: set[str] = set()
        """Lanes since the last step that upstream was shown, which has them."""
        self._computed_tokens = 0
        """By the ledger's clock, before the next step."""
        self._set_computed, self._set_running = compat.COMPUTED.writer(), compat.RUNNING.writer()
        self._set_budget, self._set_active = compat.BUDGET.writer(), compat.ACTIVE.writer()
        self._set_step = compat.STEP.writer()

    def skip(self, now_ms: float) -> Skipped | None:
        """Runs the next step without upstream.

        Args:
            now_ms: When it begins.

        Returns:
            None where upstream must see the step, and nothing but the lanes' blocks is served.
        """
        ending = self._ends.get(self.step)
        resting = [lane for lane in ending if lane.rests] if ending else []
        lanes = len(self._lanes) - len(resting)
        if not lanes or not self._fits(resting):
            return None
        self._serve(now_ms, resting)
        if len(self._lanes) < len(self.scheduler.running) or self._tries_waiting(lanes):
            return None
        load = self._load(resting)
        self._computed_tokens += lanes
        self._skipped += 1
        ended = self._end(tuple(ending), now_ms) if ending else []
        self.step += 1
        self._is_served = False
        return Skipped(load, ended)

    def hide(self) -> None:
        """Leaves the scheduler, for one step, the requests that it must see. They are up to date."""
        scheduler, lanes = self.scheduler, len(self._lanes)
        ending = tuple(self._ends.get(self.step, ()) if self._is_served else self._lanes.values())
        hidden = self._hidden = scheduler.running[:lanes]
        for lane in reversed(ending):
            self._update(lane)
            del hidden[self._remove(lane)]
        if self._in_flight is not None and (ending or self._added):
            self._in_flight.show({lane.request.request_id: self._next_token(lane) for lane in ending}, self._added)
        if hidden:
            self._set_running(scheduler, [lane.request for lane in ending] + scheduler.running[lanes:])
            self._lower(len(hidden))
        self._count_skipped()
        if self.ledger is not None:
            self.ledger.set_computed(self._computed_tokens + len(hidden))

    def reveal(self, scheduled: SchedulerOutput | None) -> StepLoad:
        """Puts the requests back that were hidden.

        Args:
            scheduled: What upstream scheduled; None where it only ended the step before.

        Returns:
            What the step computed for the hidden ones.
        """
        scheduler, hidden, load = self.scheduler, self._hidden, self._load()
        if hidden:
            self._set_running(scheduler, hidden + scheduler.running)
            self._lower(-len(hidden))
        if self.ledger is not None:
            self._computed_tokens = self.ledger.computed_tokens
        self.step += 1
        self._is_served = False
        self._refused = None
        self._added.clear()
        if scheduled is None:
            return load
        self._refused = self._find_refused(scheduled, load.tokens + scheduled.total_num_scheduled_tokens)
        for request in scheduler.running[len(hidden) :]:
            if not self._add(request):
                break
        return load

    # Lanes

    def _add(self, request: Request) -> bool:
        """Makes a request a lane, if it is quiet."""
        if not is_quiet(request, self._ahead):
            return False
        outputs, tokens = request.num_output_tokens, self.executor.answer_tokens(request.request_id)
        last = last_output(request, tokens, self.scheduler.max_model_len)
        rests = bool(self._ahead) and last == longest_output(request, self.scheduler.max_model_len)
        if not outputs <= last <= len(tokens):  # the answer's own end; the executor may know more tokens
            return False
        self._last_number += 1
        lane = Lane(request, self._last_number, tokens, self.step, self.step + last - outputs, rests)
        self._lanes[lane.number] = self._phases[-lane.origin % self._block_size][lane.number] = lane
        self._numbers.append(lane.number)
        self._ends.setdefault(lane.end, []).append(lane)
        self._origins += lane.origin
        self._added.add(request.request_id)
        return True

    def _remove(self, lane: Lane) -> int:
        """Removes a lane; returns its place in `running`."""
        place = bisect_left(self._numbers, lane.number)
        del self._lanes[lane.number], self._phases[-lane.origin % self._block_size][lane.number], self._numbers[place]
        self._ends[lane.end].remove(lane)
        if not self._ends[lane.end]:
            del self._ends[lane.end]
        self._origins -= lane.origin
        return place

    def _update(self, lane: Lane) -> None:
        """Brings a request up to date: it is as upstream would have it before the next step."""
        steps = self.step - lane.step
        if steps:
            request = lane.request
            self._set_computed(request, lane.origin + self.step)
            done = request.num_output_tokens
            request.append_output_token_ids(lane.tokens[done : done + steps])
            lane.step = self.step

    def _next_token(self, lane: Lane) -> int:
        """The token that comes next of a lane that is up to date."""
        return self.executor.token(lane.request.request_id, lane.request.num_output_tokens)

    def _load(self, resting: Sequence[Lane] = ()) -> StepLoad:
        """What the next step computes for the lanes but those that rest."""
        lanes = len(self._lanes) - len(resting)
        origins = self._origins - sum([lane.origin for lane in resting])
        return decode_load(lanes, origins + lanes * self.step)

    def _end(self, ending: Iterable[Lane], now_ms: float) -> list[str]:
        """Ends lanes with the token that comes next; returns their names."""
        if self.ledger is not None:
            self.ledger.set_time(now_ms)
            self.ledger.set_computed(self._computed_tokens)
        scheduler, ended = self.scheduler, []
        for lane in ending:
            request = lane.request
            self._update(lane)
            self._remove(lane)
            self._set_computed(request, lane.origin + self.step + 1 - self._ahead)
            _, stopped = scheduler._update_request_with_output(request, [self._next_token(lane)])
            assert stopped
            scheduler._free_request(request)
            ended.append(request)
        self._set_running(scheduler, remove_all(scheduler.running, set(ended)))
        self._refused = None
        self._count_skipped()
        return [request.request_id for request in ended]

    def _count_skipped(self) -> None:
        """Counts the steps that upstream was not shown as it counts its own."""
        self._set_step(self.scheduler, self.scheduler.current_step + self._skipped)
        self._skipped = 0

    # Blocks

    def _fits(self, resting: Sequence[Lane]) -> bool:
        """Whether the lanes, but those that rest, get their blocks of the next step without a preemption."""
        takes = self._phases[self.step % self._block_size]
        resting_takes = sum([lane.number in takes for lane in resting])
        return len(takes) - resting_takes <= self._pool.get_num_free_blocks()

    def _serve(self, now_ms: float, resting: Sequence[Lane]) -> None:
        """Takes and caches the blocks of the lanes in the next step, but of those that rest, in `running`'s order."""
        self._is_served = True
        step, size, ledger, single = self.step, self._block_size, self.ledger, self._single
        takes, fills = self._phases[step % size], self._phases[(step + 1 - self._ahead) % size]
        if not takes and not fills:
            return
        rests = [lane.number for lane in resting]
        numbers = sorted((takes | fills).keys() - rests)
        if numbers and ledger is not None:
            ledger.set_time(now_ms)
        for number in numbers:
            lane = self._lanes[number]
            request, computed = lane.request, lane.origin + step + 1
            if ledger is not None:
                place = bisect_left(self._numbers, number) - bisect_left(rests, number)
                ledger.set_computed(self._computed_tokens + place + 1)
            if self._policy_pool is not None:
                self._policy_pool.serve(request)
            if number in takes:
                new = single.allocate_new_blocks(request.request_id, computed, computed)
                if ledger is not None:
                    ledger.take(request.request_id, new)
            if number in fills:
                self._update(lane)
                single.cache_blocks(request, computed - self._ahead, replay_boundaries=())
                if ledger is not None:
                    ledger.cache(request)

    # The queue

    def _lower(self, hidden: int) -> None:
        """Lowers the scheduler's limits by what hidden requests take of them."""
        scheduler = self.scheduler
        self._set_budget(scheduler, scheduler.max_num_scheduled_tokens - hidden)
        self._set_active(scheduler, scheduler.max_num_active_reqs - hidden)

    def _tries_waiting(self, tokens: int) -> bool:
        """Whether upstream would try to start a request in the next step, and might succeed; the lanes take tokens."""
        scheduler = self.scheduler
        is_full = len(scheduler.running) >= scheduler.max_num_active_reqs
        if not scheduler.waiting or is_full or tokens >= scheduler.max_num_scheduled_tokens:
            return False
        if self._refused is None or self._refused.head is not scheduler.waiting.peek_request():
            return True
        after = self._refused.after
        return after is not None and self._pool.get_cached_block(after, [0]) is not None

    def _find_refused(self, scheduled: SchedulerOutput, tokens: int) -> _Refused | None:
        """The head of the queue, if the step that has ended tried it in vain and gave no blocks back.

        Args:
            scheduled: Of the step.
            tokens: Computed in it.
        """
        scheduler = self.scheduler
        if (
            not scheduler.waiting
            or scheduled.preempted_req_ids
            or scheduler.finished_req_ids
            or tokens >= scheduler.max_num_scheduled_tokens
            or len(scheduler.running) >= scheduler.max_num_active_reqs
        ):
            return None
        head = scheduler.waiting.peek_request()
        _, hit_tokens, _ = self._manager.get_computed_blocks(head)
        longer = hit_tokens + self._block_size
        after = head.block_hashes[hit_tokens // self._block_size] if longer < head.num_tokens else None
        return _Refused(head, after)
