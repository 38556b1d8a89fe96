"""The simulator's executor in a comparison, and one that is wrong on purpose."""

from vllm.sampling_params import SamplingParams

from vllm_sim.engine.driver import RowExecutor

__all__ = ["LateExecutor", "RowExecutor"]


class LateExecutor(RowExecutor):
    """Every token comes one position late: a comparison that lets this pass compares nothing."""

    def _answer(self, request_id: str, prompt_tokens: int, row: int, params: SamplingParams) -> None:
        super()._answer(request_id, prompt_tokens, row, params)
        answer = self._running[request_id]
        answer.tokens = [answer.tokens[0], *answer.tokens]
