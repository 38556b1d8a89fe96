"""The step that is in flight under asynchronous scheduling, and the requests for which upstream ends it.

Faithful to vLLM 0.32 (v1/engine/core.py EngineCore.step_with_batch_queue, v1/core/sched/scheduler.py
update_from_output, read): upstream schedules a step and then ends the one before it, for the requests in
SchedulerOutput.num_scheduled_tokens, in their order, with the tokens of the step's output. Both are made anew here; all
else of the step stays.
"""

from collections import deque
from collections.abc import Container, Mapping
from dataclasses import replace

from vllm.v1.engine.core import EngineCore

from vllm_sim.engine import compat
from vllm_sim.engine.executor import done, output_of


class InFlight:
    """The one step that an engine has scheduled and not ended.

    Args:
        core: Upstream's; changed. It schedules asynchronously, and at most one step before the last one has ended.
    """

    def __init__(self, core: EngineCore):
        self.core = core
        self._set_queue = compat.BATCH.writer()

    def show(self, tokens: Mapping[str, int], hidden: Container[str]) -> None:
        """Has upstream end the step for other requests.

        Args:
            tokens: Of requests that decode in it and that upstream was not shown, the token of each; they come first.
            hidden: Requests that upstream was shown and for which it is not to end the step.
        """
        assert self.core.batch_queue is not None
        ((future, scheduled, executed),) = self.core.batch_queue
        output = future.result()
        kept = {name: count for name, count in scheduled.num_scheduled_tokens.items() if name not in hidden}
        sampled = [[token] for token in tokens.values()]
        sampled += [output.sampled_token_ids[output.req_id_to_index[name]] for name in kept]
        counts = dict.fromkeys(tokens, 1) | kept
        step = done(output_of(list(counts), sampled)), replace(scheduled, num_scheduled_tokens=counts), executed
        self._set_queue(self.core, deque([step], self.core.batch_queue.maxlen))
