"""What a request may ask of a simulator: refused with 400 and the parameter's name, or with 404 for a miss."""

from typing import Any

import numpy as np
from vllm.exceptions import QueueOverflowError, VLLMNotFoundError, VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from vllm_sim.engine.answers import Answers
from vllm_sim.engine.contact import field
from vllm_sim.engine.failures import Failures
from vllm_sim.engine.options import KEY, PluginOptions
from vllm_sim.trace.tokens import prompt_digest

_SHOWN_TOKENS = 24
_SHOWN_CHARACTERS = 80

# Fields of SamplingParams, named as the API's parameters are.
_NEEDS_LOGITS = (
    "prompt_logprobs",
    "prompt_logprob_token_ids",
    "logprob_token_ids",
    "bad_words",
    "allowed_token_ids",
    "logit_bias",
    "thinking_token_budget",
    "trace_decode_token_ids",
)


def check_parameters(params: Any) -> None:
    """Refuses what only a model that computes logits could honour.

    Raises:
        VLLMValidationError: with the parameter's name (the server answers 400).
    """
    if not isinstance(params, SamplingParams):
        raise _refused("pooling_params", "it replays generated text only")
    if params.structured_outputs is not None:
        raise _refused(_grammar_parameter(params.structured_outputs), "a recorded response follows no grammar")
    if params.logprobs is not None:
        beams = params.max_tokens == 1 and not params.detokenize
        raise _refused("use_beam_search" if beams else "logprobs", "no logits are computed")
    for parameter in _NEEDS_LOGITS:
        if field(params, parameter) not in (None, [], {}):
            raise _refused(parameter, "no logits are computed")


def _grammar_parameter(found: StructuredOutputsParams) -> str:
    """What a client is likely to have sent: upstream turns response_format and a forced tool choice into a schema."""
    if found.json_object or found.structural_tag is not None:
        return "response_format"
    return "structured_outputs" if found.json is None else "response_format, tool_choice or structured_outputs"


def _refused(parameter: str, reason: str) -> VLLMValidationError:
    return VLLMValidationError(f"vllm_sim cannot honour {parameter}: {reason}.", parameter=parameter)


def check_prompt(engine_input: Any, answers: Answers, options: PluginOptions, vocabulary_size: int) -> None:
    """Refuses a prompt that the trace does not have, where the options say so.

    Raises:
        VLLMValidationError: the prompt is not made of tokens, or one is not in the vocabulary.
        VLLMNotFoundError: the prompt is not in the trace (the server answers 404).
    """
    kind = engine_input["type"]
    if kind != "token":
        parameter = "prompt_embeds" if kind == "embeds" else "prompt"
        raise _refused(parameter, f"a trace holds tokens, this prompt is of type {kind!r}")
    if options.on_miss == "synthesize":
        return
    token_ids = engine_input["prompt_token_ids"]
    if not token_ids:
        return  # vLLM looks at it afterwards, and refuses it with 400
    if (largest := max(token_ids)) >= vocabulary_size:
        raise VLLMValidationError(
            f"Token id {largest} is out of vocabulary; allowed: 0 to {vocabulary_size - 1}.", parameter="prompt"
        )
    if not answers.has(np.asarray(token_ids, dtype=np.int32)):
        raise VLLMNotFoundError(_miss_message(token_ids, answers))


def refuse_on_purpose(engine_input: Any, failures: Failures) -> None:
    """Refuses a request that the option failures rejects.

    Raises:
        QueueOverflowError: upstream's own for a full queue (the server answers 503).
    """
    prompt = np.asarray(engine_input["prompt_token_ids"], dtype=np.int32)
    if failures.draw(prompt_digest(prompt)) == "reject":
        raise QueueOverflowError


def _miss_message(token_ids: list[int], answers: Answers) -> str:
    # The tokens are what was looked up; the client's text would hide a second BOS.
    shown = answers.vocabulary.decode(token_ids[:_SHOWN_TOKENS])[:_SHOWN_CHARACTERS]
    return (
        f"This prompt of {len(token_ids)} tokens is not in the trace {answers.path} "
        f"({answers.prompts} different prompts). It begins with {shown!r}. "
        f'With --additional-config \'{{"{KEY}": {{"on_miss": "synthesize"}}}}\' prompts that are not in the trace are '
        "answered with deterministic tokens."
    )
