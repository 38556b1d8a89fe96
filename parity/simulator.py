"""The simulator in a comparison: its executor, two that are wrong on purpose, and the driver of `vllm-sim replay`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput

from parity.workload import Case, make_asks
from vllm_sim.engine.backends.driver import Arrival, Driver, RequestSettings, RowExecutor, RowFacts, Setup, make_core
from vllm_sim.trace.tokens import load_tokenised

__all__ = ["EagerExecutor", "LateExecutor", "RowExecutor", "make_driver"]


class LateExecutor(RowExecutor):
    """Every token comes one position late: a comparison that lets this pass compares nothing."""

    def _answer(self, request_id: str, prompt_tokens: int, row: int, params: SamplingParams) -> None:
        super()._answer(request_id, prompt_tokens, row, params)
        answer = self._running[request_id]
        answer.tokens = [answer.tokens[0], *answer.tokens]


class EagerExecutor(RowExecutor):
    """A request samples as soon as its prompt is computed, also where it returns and has output to compute again.

    The simulator did so once, and only preemptions with long outputs and small budgets show it.
    """

    def _step(self, output: SchedulerOutput) -> Any:
        known = output.scheduled_cached_reqs
        no_output = replace(known, num_output_tokens=[0] * len(known.num_output_tokens))
        return super()._step(replace(output, scheduled_cached_reqs=no_output))


def make_driver(case: Case, models: str, trace: Path) -> tuple[Driver, list[Arrival]]:
    """The driver over a case's trace, each step a millisecond long: rows arrive when they did on the real side.

    A closed loop serves them in their order.
    """
    model = str(Path(models) / case.model)
    setup = Setup(
        capacity_blocks=case.capacity_blocks,
        block_size=case.block_size,
        max_model_len=case.max_model_len,
        model_positions=case.max_model_len,
        max_num_seqs=case.max_num_seqs,
        max_num_batched_tokens=case.max_num_batched_tokens,
        async_scheduling=case.async_scheduling,
        policy=case.policy,
        policy_params=case.policy_params,
        seed=case.seed,
        tier=case.tier,
        upstream={name: value for name, value in case.upstream.items() if name != "kv_transfer_config"},
    )
    asks = make_asks(case.seed, case.sessions, case.shape)
    known = RowFacts(np.zeros(len(asks), np.int64), [None] * len(asks), None)  # one category, as in a live server
    driver = Driver(
        make_core(trace, model, setup, known),
        load_tokenised(trace, model),
        lambda load: 1.0,
        [RequestSettings(priority=ask.priority, max_tokens=ask.max_tokens) for ask in asks],
        case.concurrency,
        plain_steps=True,  # sparse ones are held equal to these by tests/engine/test_sparse.py
    )
    is_open = case.concurrency is None
    return driver, [Arrival(ask.row, ask.after_row, float(ask.step) if is_open else 0.0) for ask in asks]
