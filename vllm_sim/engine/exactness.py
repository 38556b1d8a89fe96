"""Whether every recorded response comes back as it was: each goes once through vLLM's own incremental detokeniser.

Known to fail: text that ends in U+FFFD, which upstream holds back as half a character. What was checked is noted in the
cache of the trace's tokens, so that a trace is checked once by each version of vLLM and kind of tokenizer.
"""

import functools
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from vllm.logger import init_logger
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from vllm_sim.engine.answers import Answers
from vllm_sim.trace.files import iter_records, open_output
from vllm_sim.trace.record import TraceError
from vllm_sim.vllm_version import installed_version

logger = init_logger("vllm.vllm_sim.exactness")

_CHUNK_ROWS = 1000


def check_exact(answers: Answers, model_config: Any, on_inexact: str) -> None:
    """Compares every text response with what the detokeniser makes of its tokens.

    Args:
        answers: The trace.
        model_config: vLLM's ModelConfig, which names the tokenizer.
        on_inexact: `error` raises at the first response that differs, `warn` logs each and goes on.

    Raises:
        TraceError: a response differs, or a token is not in the model's vocabulary; with file and line.
    """
    _check_vocabulary(answers, model_config.get_vocab_size())
    if model_config.skip_tokenizer_init:
        return  # token ids are all that goes in and out
    noted = answers.trace.folder / f"exact-{installed_version()}-{model_config.tokenizer_mode}.json"
    lines = _read_noted(noted)
    if lines is None:
        lines = list(_inexact_lines(answers, cached_tokenizer_from_config(model_config)))
        with open_output(noted) as file:
            json.dump(lines, file)
    for line in lines:
        error = TraceError(answers.path, line, "vLLM's detokeniser does not give this response back as it was recorded")
        if on_inexact == "error":
            raise error
        logger.warning("%s", error)


def _read_noted(path: Path) -> list[int] | None:
    """The lines that were noted; None where nothing was, or not whole."""
    try:
        lines = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_list = isinstance(lines, list) and all(type(line) is int for line in lines)
    return lines if is_list else None


def _check_vocabulary(answers: Answers, size: int) -> None:
    trace = answers.trace
    for what, tokens, offsets in (
        ("prompt", trace.prompt_tokens, trace.prompt_offsets),
        ("response", trace.response_tokens, trace.response_offsets),
    ):
        if len(tokens) and (largest := int(tokens.max())) >= size:
            row = int(offsets.searchsorted(int(tokens.argmax()), side="right")) - 1
            raise TraceError(
                answers.path, int(trace.lines[row]), f"{what} token {largest} is too large; allowed: 0 to {size - 1}"
            )

    is_made = trace.hash_block_sizes.any() or not np.diff(trace.response_offsets).all()
    if is_made and (largest := answers.vocabulary.filler.largest_token) >= size:
        raise TraceError(answers.path, 0, f"token {largest}, made for an id, is too large; allowed: 0 to {size - 1}")


def _inexact_lines(answers: Answers, tokenizer: Any) -> Iterator[int]:
    """Yields the lines whose response differs; large traces are split over processes that share the arrays by fork."""
    records = ((row, *item) for row, item in enumerate(iter_records(answers.path)))
    texts = ((row, line, record.response) for row, line, record in records if record.response is not None)
    chunks = iter(lambda: list(islice(texts, _CHUNK_ROWS)), [])
    check = functools.partial(_check_rows, answers, tokenizer)
    may_fork = sys.platform == "linux" and not multiprocessing.current_process().daemon
    if may_fork and len(answers.trace) > 2 * _CHUNK_ROWS:
        global _check_in_child
        _check_in_child = check
        with multiprocessing.get_context("fork").Pool() as pool:
            for lines in pool.imap(_check_forked, chunks):
                yield from lines
    else:
        for chunk in chunks:
            yield from check(chunk)


_check_in_child: Callable[[list[tuple[int, int, str]]], list[int]]
"""Set before a fork, because the tokenizer and the trace need not be copied into the children then."""


def _check_forked(rows: list[tuple[int, int, str]]) -> list[int]:
    return _check_in_child(rows)


def _check_rows(answers: Answers, tokenizer: Any, rows: list[tuple[int, int, str]]) -> list[int]:
    """The lines of those (row, line, recorded text) that the detokeniser does not give back."""
    ends = answers.trace.end_token_ids
    params = SamplingParams()
    inexact = []
    for row, line, text in rows:
        tokens = answers.trace.response(row).tolist()
        if tokens[-1] in ends:
            tokens.pop()
        request = EngineCoreRequest(
            request_id="",
            prompt_token_ids=answers.trace.prompt(row).tolist(),
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
        detokenizer.update(tokens, False)
        if detokenizer.get_next_output_text(True, False) != text:
            inexact.append(line)
    return inexact
