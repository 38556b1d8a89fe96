"""Whether every recorded response comes back as it was from vLLM's own incremental detokeniser.

A response goes once through that detokeniser, unless its tokens say it faster. Under a byte-level decoder a text is the
bytes of its tokens, one after the other, and the detokeniser gives out whole characters (tokenizers 0.23, read:
decoders/byte_level.rs, and step_decode_stream in tokenizer/mod.rs). So where the prompt ends on a whole character and
the response has no U+FFFD, the pieces add up to the text of all tokens at once. One response in SAMPLE goes through
the detokeniser all the same.

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
from tokenizers.decoders import ByteLevel
from vllm.logger import init_logger
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import IncrementalDetokenizer, uses_fast_detokenizer

from vllm_sim.engine.answers import Answers
from vllm_sim.trace.files import iter_records, open_output
from vllm_sim.trace.record import TraceError
from vllm_sim.vllm_version import installed_version

logger = init_logger("vllm.vllm_sim.exactness")

SAMPLE = 100
_CHUNK_ROWS = 1000
_HALF = "\ufffd"
"""What a decoder gives for bytes that are no whole character."""
_TAIL_TOKENS = 8


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
    decode = _byte_decoder(tokenizer)
    inexact = []
    for place, (row, line, text) in enumerate(rows):
        is_plain = place % SAMPLE > 0 and decode is not None and _is_decoded(answers, decode, row, text)
        if not is_plain and _given_back(answers, tokenizer, row) != text:
            inexact.append(line)
    return inexact


def _byte_decoder(tokenizer: Any) -> Callable[[list[int]], str] | None:
    """What gives the text of tokens without the special ones; None where it is not the bytes of each, or upstream's
    detokeniser has another.
    """
    if not uses_fast_detokenizer(tokenizer) or not isinstance(tokenizer._tokenizer.decoder, ByteLevel):
        return None
    return functools.partial(tokenizer._tokenizer.decode, skip_special_tokens=True)


def _is_decoded(answers: Answers, decode: Callable[[list[int]], str], row: int, text: str) -> bool:
    """Whether a response is its tokens' text, and neither it nor the prompt's end has half a character."""
    tail = decode(answers.trace.prompt(row)[-_TAIL_TOKENS:].tolist())
    ends_whole = bool(tail) and not tail.endswith(_HALF)
    return ends_whole and _HALF not in text and decode(_generated(answers, row)) == text


def _generated(answers: Answers, row: int) -> list[int]:
    """Generated tokens of a row, without the end token."""
    tokens: list[int] = answers.trace.response(row).tolist()
    if tokens[-1] in answers.trace.end_token_ids:
        tokens.pop()
    return tokens


def _given_back(answers: Answers, tokenizer: Any, row: int) -> str:
    """The text that upstream's detokeniser gives of a row."""
    request = EngineCoreRequest(
        request_id="",
        prompt_token_ids=answers.trace.prompt(row).tolist(),
        mm_features=None,
        sampling_params=SamplingParams(),
        pooling_params=None,
        arrival_time=0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
    detokenizer.update(_generated(answers, row), False)
    return detokenizer.get_next_output_text(True, False)
