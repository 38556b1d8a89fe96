"""Two schedulers that look at the cache when they order what waits. Each is a subclass of vLLM's own.

    vllm-sim replay TRACE --out DIR --scheduler-cls cached_first:LongestCachedPrefixFirst
    vllm serve MODEL --no-async-scheduling --scheduler-cls cached_first.ShortestUncachedFirst

Read: v1/core/sched/scheduler.py and request_queue.py of vLLM 0.32. A step begins with `schedule`, which takes requests
from the front of `self.waiting`; here it is put into another order just before. Requests that were preempted stay in
front, as vLLM puts them there. Each waiting request costs a lookup in each step.
"""

from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request


class _Ordered(Scheduler):
    """Puts what waits into an order before each step."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._since: dict[str, int] = {}
        """The step in which each waiting request was seen first."""

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        waiting = list(self.waiting)
        self._since = {one.request_id: self._since.get(one.request_id, self.current_step) for one in waiting}
        if len(waiting) > 1:
            ordered = sorted(waiting, key=lambda one: (not one.num_preemptions, self.rank(one)))  # sorted() is stable
            self.waiting.remove_requests(waiting)
            for request in ordered:
                self.waiting.add_request(request)
        return super().schedule(*args, **kwargs)

    def rank(self, request: Request) -> float:
        """The smallest goes first."""
        raise NotImplementedError

    def cached_tokens(self, request: Request) -> int:
        """Tokens of its prompt that are cached now."""
        return self.kv_cache_manager.get_computed_blocks(request)[1]

    def steps_waited(self, request: Request) -> int:
        """Steps since it was seen first."""
        return self.current_step - self._since[request.request_id]


class LongestCachedPrefixFirst(_Ordered):
    """The most cached tokens first; each step of waiting counts as much as AGEING_TOKENS of them."""

    AGEING_TOKENS = 16

    def rank(self, request: Request) -> float:
        return -(self.cached_tokens(request) + self.AGEING_TOKENS * self.steps_waited(request))


class ShortestUncachedFirst(_Ordered):
    """The fewest tokens to compute first. Nothing ages: long prompts may wait for ever while short ones come."""

    def rank(self, request: Request) -> float:
        return request.num_tokens - self.cached_tokens(request)
