"""Block hashes of a trace's rows, computed once and kept next to its tokens.

Faithful to vLLM 0.32 (v1/core/kv_cache_utils.py get_request_block_hasher, v1/engine/core.py, read): the hashes are what
upstream's own hasher makes of a request with the row's prompt, generated tokens and salt, byte for byte; a sample is
made again whenever they are read. What is not kept is hashed by upstream when it is needed: tokens after a row's
answer; the algorithms that start from a random value; and blocks of fewer than 8 tokens, whose hashes would take more
than their tokens' room. Room: 32 bytes a block.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
from vllm.sampling_params import SamplingParams
from vllm.v1.core import kv_cache_utils
from vllm.v1.core.kv_cache_utils import BlockHash
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from vllm_sim.engine import compat
from vllm_sim.engine.contact import field
from vllm_sim.trace.tokens import TokenisedTrace
from vllm_sim.vllm_version import installed_version

HASH_BYTES = 32
ALGORITHMS = ("sha256", "sha256_cbor")
LEAST_BLOCK_TOKENS = 8
_HASH = np.dtype((np.void, HASH_BYTES))
"""Becomes bytes in Python, several times faster than by slices."""
_SAMPLE_ROWS, _SAMPLE_BLOCKS = 16, 4

Hasher = Callable[[Request], list[BlockHash]]


def use_stored_hashes(core: EngineCore, trace: TokenisedTrace, salts: Sequence[str | None]) -> None:
    """Lets an engine take the hashes of a trace's rows from the file, which is written where it is not there.

    Args:
        core: Over this trace, whose requests are named by their rows; changed. It has served no request yet.
        trace: The rows' tokens.
        salts: cache_salt by row.

    Raises:
        ValueError: the file holds something else.
    """
    config, hasher = core.vllm_config.cache_config, core.request_block_hasher
    algorithm, size = field(config, "prefix_caching_hash_algo"), field(core.scheduler, "hash_block_size")
    if hasher is None or algorithm not in ALGORITHMS or size < LEAST_BLOCK_TOKENS:
        return
    lengths = trace.prompt_lengths + trace.response_lengths
    begins = np.concatenate([[0], np.cumsum(lengths // size)]).tolist()
    about = repr((installed_version(), algorithm, kv_cache_utils.NONE_HASH, list(salts)))
    path = trace.folder / f"hashes-{size}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    if not path.exists():
        _write(path, hasher, trace, salts)
    if not begins[-1]:
        return
    with path.open("rb") as file:
        found = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))
    if len(found) != begins[-1] * HASH_BYTES or not _is_right(found, begins, hasher, trace, salts, size):
        raise ValueError(f"{path} does not hold the block hashes of its trace; delete it, and it is written again")
    compat.HASHER.put(core, _stored_hasher(found, begins, hasher, size))


def _stored_hasher(found: memoryview, begins: list[int], hasher: Hasher, size: int) -> Hasher:
    def request_block_hasher(request: Request) -> list[BlockHash]:
        done, full = len(request.block_hashes), request.num_tokens // size
        if full <= done:
            return []
        row = int(request.request_id)
        begin = begins[row]
        if full > begins[row + 1] - begin:
            return hasher(request)
        return _hashes(found, begin + done, begin + full)

    return request_block_hasher


def _hashes(found: memoryview, begin: int, end: int) -> list[BlockHash]:
    hashes: list[BlockHash] = np.frombuffer(found, _HASH, end - begin, begin * HASH_BYTES).tolist()
    return hashes


def _write(path: Path, hasher: Hasher, trace: TokenisedTrace, salts: Sequence[str | None]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        for row in range(len(trace)):
            file.write(b"".join(hasher(_request(trace, row, salts[row]))))
    temporary.replace(path)


def _request(trace: TokenisedTrace, row: int, salt: str | None, end: int | None = None) -> Request:
    """A request of which nothing is hashed yet: all tokens of a row, or the first of them."""
    tokens = np.concatenate([trace.prompt(row), trace.response(row)])[:end].tolist()
    return Request(str(row), tokens, SamplingParams(max_tokens=1), None, arrival_time=0.0, cache_salt=salt)


def _is_right(
    found: memoryview,
    begins: list[int],
    hasher: Hasher,
    trace: TokenisedTrace,
    salts: Sequence[str | None],
    size: int,
) -> bool:
    """Whether upstream's hasher gives the first and the last blocks of some rows again; the last from their parent."""
    for row in np.linspace(0, len(trace) - 1, min(len(trace), _SAMPLE_ROWS)).astype(int).tolist():
        begin, blocks = begins[row], begins[row + 1] - begins[row]
        first = min(blocks, _SAMPLE_BLOCKS)
        beginning = _request(trace, row, salts[row], first * size)
        whole = _request(trace, row, salts[row])
        whole.block_hashes.extend(_hashes(found, begin, begin + blocks - first))
        if hasher(beginning) != _hashes(found, begin, begin + first):
            return False
        if hasher(whole) != _hashes(found, begin + blocks - first, begin + blocks):
            return False
    return True
