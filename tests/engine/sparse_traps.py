"""Faults that sparse stepping could have, each as a variant of it that is put in for a test; all are to be found.

The first four were faults of a prototype, and large traces did not show the fourth.
"""

from collections.abc import Callable
from typing import Any

import pytest
from vllm.v1.request import RequestStatus

from vllm_sim.engine.backends import sparse
from vllm_sim.engine.backends.driver import Driver
from vllm_sim.engine.backends.in_flight import InFlight
from vllm_sim.engine.backends.lanes import last_output
from vllm_sim.engine.backends.ledger import Ledger
from vllm_sim.engine.backends.sparse import SparseSteps
from vllm_sim.engine.pool import PolicyBlockPool

Trap = Callable[[pytest.MonkeyPatch], None]


def ending_requests_are_shown_in_another_order(patch: pytest.MonkeyPatch) -> None:
    hide = SparseSteps.hide

    def turned(self: SparseSteps) -> None:
        self._ends.get(self.step, []).reverse()
        hide(self)

    patch.setattr(SparseSteps, "hide", turned)


def steps_are_skipped_beyond_an_arrival(patch: pytest.MonkeyPatch) -> None:
    is_due, step = Driver._is_due, Driver.step

    def blind(self: Driver, due: Any, is_alone: bool) -> Any:
        patch.setattr(Driver, "_is_due", lambda self, due: False)
        try:
            return step(self, due, is_alone)
        finally:
            patch.setattr(Driver, "_is_due", is_due)

    patch.setattr(Driver, "step", blind)


def followers_of_a_rejected_row_come_late(patch: pytest.MonkeyPatch) -> None:
    step = Driver.step
    patch.setattr(Driver, "step", lambda self, due, is_alone: step(self, due, is_alone=False))


def an_end_token_within_an_answer_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    def without_ends(request: Any, tokens: list[int], max_model_len: int) -> int:
        return min(last_output(request, [-1] * len(tokens), max_model_len), len(tokens) - 1)

    patch.setattr(sparse, "last_output", without_ends)


def max_model_len_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    def longer(request: Any, tokens: list[int], max_model_len: int) -> int:
        return last_output(request, tokens, max_model_len + 1)

    patch.setattr(sparse, "last_output", longer)


def the_queue_is_asked_before_the_steps_blocks_are_served(patch: pytest.MonkeyPatch) -> None:
    serve, tries = SparseSteps._serve, SparseSteps._tries_waiting

    def asking(self: SparseSteps, *arguments: Any) -> None:
        answer = tries(self, len(self._lanes))
        serve(self, *arguments)
        patch.setattr(SparseSteps, "_tries_waiting", lambda self, tokens: answer)

    patch.setattr(SparseSteps, "_serve", asking)


def a_longer_hit_of_the_head_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    find = SparseSteps._find_refused

    def unseeing(self: SparseSteps, *arguments: Any) -> Any:
        found = find(self, *arguments)
        return found and found._replace(after=None)

    patch.setattr(SparseSteps, "_find_refused", unseeing)


def blocks_that_are_given_back_do_not_matter(patch: pytest.MonkeyPatch) -> None:
    find = SparseSteps._find_refused

    def forgetful(self: SparseSteps, *arguments: Any) -> Any:
        finished, scheduler = self.scheduler.finished_req_ids, self.scheduler
        scheduler.finished_req_ids = set()
        found = find(self, *arguments)
        scheduler.finished_req_ids = finished
        return found

    patch.setattr(SparseSteps, "_find_refused", forgetful)


def blocks_that_an_unseen_end_gives_back_do_not_matter(patch: pytest.MonkeyPatch) -> None:
    end = SparseSteps._end

    def forgetful(self: SparseSteps, *arguments: Any) -> list[str]:
        refused = self._refused
        ended = end(self, *arguments)
        self._refused = refused
        return ended

    patch.setattr(SparseSteps, "_end", forgetful)


def unseen_ends_come_in_another_order(patch: pytest.MonkeyPatch) -> None:
    end = SparseSteps._end
    patch.setattr(SparseSteps, "_end", lambda self, ending, now_ms: end(self, ending[::-1], now_ms))


def a_preemption_counts_as_a_refusal(patch: pytest.MonkeyPatch) -> None:
    find = SparseSteps._find_refused

    def hasty(self: SparseSteps, scheduled: Any, tokens: int) -> Any:
        scheduled.preempted_req_ids = set()
        return find(self, scheduled, tokens)

    patch.setattr(SparseSteps, "_find_refused", hasty)


def a_spent_budget_counts_as_a_refusal(patch: pytest.MonkeyPatch) -> None:
    find = SparseSteps._find_refused
    patch.setattr(SparseSteps, "_find_refused", lambda self, scheduled, tokens: find(self, scheduled, 0))


def hidden_requests_leave_their_budget_to_others(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SparseSteps, "_lower", lambda self, hidden: None)


def hidden_requests_leave_their_places_to_others(patch: pytest.MonkeyPatch) -> None:
    lower = SparseSteps._lower

    def half(self: SparseSteps, hidden: int) -> None:
        active = self.scheduler.max_num_active_reqs
        lower(self, hidden)
        self.scheduler.max_num_active_reqs = active

    patch.setattr(SparseSteps, "_lower", half)


def blocks_are_served_in_no_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sparse, "sorted", lambda numbers: sorted(numbers, reverse=True), raising=False)


def blocks_are_served_though_some_do_not_fit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SparseSteps, "_fits", lambda self, resting: True)


def a_full_block_is_cached_with_the_next_one_taken(patch: pytest.MonkeyPatch) -> None:
    serve = SparseSteps._serve

    def late(self: SparseSteps, *arguments: Any) -> None:
        phases, size = self._phases, self._block_size
        if size > 1:
            self._phases = [lanes if i == self.step % size else {} for i, lanes in enumerate(phases)]
        serve(self, *arguments)
        self._phases = phases

    patch.setattr(SparseSteps, "_serve", late)


def the_ledgers_tokens_are_not_set(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "set_computed", lambda self, tokens: None)


def the_ledgers_time_is_not_set(patch: pytest.MonkeyPatch) -> None:
    serve = SparseSteps._serve
    patch.setattr(SparseSteps, "_serve", lambda self, now_ms, resting: serve(self, 0.0, resting))


def skipped_steps_do_not_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SparseSteps, "_count_skipped", lambda self: None)


def contexts_do_not_grow(patch: pytest.MonkeyPatch) -> None:
    load = SparseSteps._load

    def constant(self: SparseSteps, *arguments: Any) -> Any:
        found = load(self, *arguments)
        return found._replace(pairs=found.pairs - self.step * found.requests)

    patch.setattr(SparseSteps, "_load", constant)


def a_prompt_that_is_cut_is_hidden(patch: pytest.MonkeyPatch) -> None:
    skip = SparseSteps.skip

    def hiding(self: SparseSteps, now_ms: float) -> Any:
        running = self.scheduler.running
        self.scheduler.running = running[: max(1, len(self._lanes))]
        try:
            return skip(self, now_ms)
        finally:
            self.scheduler.running = [request for request in running if not request.is_finished()]

    patch.setattr(SparseSteps, "skip", hiding)


def a_policy_hears_once_of_a_request_that_is_served_again(patch: pytest.MonkeyPatch) -> None:
    serve = PolicyBlockPool.serve

    def once(self: PolicyBlockPool, request: Any) -> None:
        if not request.num_computed_tokens or request is not self._request:
            serve(self, request)

    patch.setattr(PolicyBlockPool, "serve", once)


def a_chunk_in_flight_counts_as_one_token(patch: pytest.MonkeyPatch) -> None:
    def hasty(request: Any, in_flight: int) -> bool:
        ready = request.status == RequestStatus.RUNNING and not request.is_prefill_chunk and request.num_output_tokens
        return bool(ready) and request.num_output_placeholders == in_flight

    patch.setattr(sparse, "is_quiet", hasty)


def a_request_that_rests_is_scheduled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sparse, "longest_output", lambda request, max_model_len: -1)


def a_request_that_rests_takes_its_block(patch: pytest.MonkeyPatch) -> None:
    serve = SparseSteps._serve
    patch.setattr(SparseSteps, "_serve", lambda self, now_ms, resting: serve(self, now_ms, ()))


def the_step_in_flight_ends_for_hidden_requests(patch: pytest.MonkeyPatch) -> None:
    show = InFlight.show
    patch.setattr(InFlight, "show", lambda self, tokens, hidden: show(self, tokens, ()))


def the_step_in_flight_does_not_end_for_shown_requests(patch: pytest.MonkeyPatch) -> None:
    show = InFlight.show
    patch.setattr(InFlight, "show", lambda self, tokens, hidden: show(self, {}, hidden))


def a_known_block_is_cached_a_step_early(patch: pytest.MonkeyPatch) -> None:
    serve = SparseSteps._serve

    def early(self: SparseSteps, *arguments: Any) -> None:
        self._ahead, ahead = 0, self._ahead
        serve(self, *arguments)
        self._ahead = ahead

    patch.setattr(SparseSteps, "_serve", early)


ASYNCHRONOUS: dict[Trap, int] = {
    a_chunk_in_flight_counts_as_one_token: 5,
    a_request_that_rests_is_scheduled: 0,
    a_request_that_rests_takes_its_block: 3,
    the_step_in_flight_ends_for_hidden_requests: 4,
    the_step_in_flight_does_not_end_for_shown_requests: 0,
    a_known_block_is_cached_a_step_early: 0,
}
"""Faults under asynchronous scheduling, and a case that finds each."""
TRAPS: dict[Trap, int | str] = {
    followers_of_a_rejected_row_come_late: "rejected",
    max_model_len_is_not_seen: "longest",
    the_queue_is_asked_before_the_steps_blocks_are_served: "longer hit",
    a_longer_hit_of_the_head_is_not_seen: "longer hit",
    ending_requests_are_shown_in_another_order: 37,
    unseen_ends_come_in_another_order: 4,
    blocks_that_an_unseen_end_gives_back_do_not_matter: 21,
    steps_are_skipped_beyond_an_arrival: 9,
    an_end_token_within_an_answer_is_not_seen: 4,
    blocks_that_are_given_back_do_not_matter: 5,
    a_preemption_counts_as_a_refusal: 5,
    a_spent_budget_counts_as_a_refusal: 12,
    hidden_requests_leave_their_budget_to_others: 5,
    hidden_requests_leave_their_places_to_others: 5,
    blocks_are_served_in_no_order: 3,
    blocks_are_served_though_some_do_not_fit: 5,
    a_full_block_is_cached_with_the_next_one_taken: 0,
    the_ledgers_tokens_are_not_set: 2,
    the_ledgers_time_is_not_set: 2,
    skipped_steps_do_not_count: 0,
    contexts_do_not_grow: 0,
    a_prompt_that_is_cut_is_hidden: 7,
    a_policy_hears_once_of_a_request_that_is_served_again: 0,
}
"""A case that finds each: the first that is drawn, or a planned one. Whoever changes what random_engines.py draws looks
for them anew."""
