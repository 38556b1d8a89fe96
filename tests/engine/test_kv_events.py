"""KV events of a running engine: what was stored, less what was removed, is what the block pool holds."""

import time
from collections import Counter
from typing import Any

import msgspec
import pytest
import zmq
from vllm.config.kv_events import KVEventsConfig

from tests.engine.conftest import Start, generate, prompts_of
from tests.serving import free_port

FAMILIES, TURNS = 6, 4
ROWS = [
    {
        "prompt_token_ids": [128000, *range(100 * family, 100 * family + 20 * (turn + 1))],
        "output_length": 9,
    }
    for turn in range(TURNS)
    for family in range(1, FAMILIES + 1)
]
BLOCKS = 40
"""Fewer than all rows need, so that blocks are removed."""


def received(subscriber: Any) -> list[list[bytes]]:
    """Messages (topic, number, events), until none comes for a while."""
    found = []
    while subscriber.poll(1000):
        found.append(subscriber.recv_multipart())
    return found


def replayed(context: Any, endpoint: str, first: int) -> list[list[bytes]]:
    """What the replay socket gives for a number; a message without a topic and without events is its last."""
    asking = context.socket(zmq.DEALER)
    asking.connect(endpoint)
    asking.send_multipart([b"", first.to_bytes(8, "big")])
    found = []
    while asking.poll(10_000):
        _, *message = asking.recv_multipart()
        if not message[-1]:
            return found
        found.append(message)
    raise AssertionError("the replay socket gave no end")


def events_of(messages: list[list[bytes]]) -> list[dict[str, Any]]:
    return [event for message in messages for event in msgspec.msgpack.decode(message[-1])[1]]


@pytest.mark.parametrize("policy", ["lru", "arc"])
def test_what_was_stored_and_not_removed_is_what_the_pool_holds(start: Start, policy: str) -> None:
    published, again = free_port(), free_port()
    config: dict[str, Any] = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{published}",
        "replay_endpoint": f"tcp://*:{again}",
        "topic": "kv",
    }
    sizes = {"num_gpu_blocks_override": BLOCKS, "max_model_len": 256, "max_num_seqs": 2}
    llm = start(ROWS, {"eviction": policy}, kv_events_config=KVEventsConfig(**config), **sizes)
    context = zmq.Context()
    try:
        subscriber = context.socket(zmq.SUB)
        subscriber.connect(f"tcp://localhost:{published}")
        subscriber.setsockopt(zmq.SUBSCRIBE, b"kv")
        time.sleep(1)  # until the publisher knows of it
        generate(llm, prompts_of(llm))
        messages = received(subscriber)
        held: Counter[int] = Counter()
        kinds: Counter[str] = Counter()
        for event in events_of(messages):
            kinds[event["type"]] += 1
            for block in event["block_hashes"]:
                held[block] += 1 if event["type"] == "BlockStored" else -1
        assert set(kinds) == {"BlockStored", "BlockRemoved"}
        assert min(held.values()) >= 0
        assert +held == Counter(hashes_of_the_pool(llm))
        assert replayed(context, f"tcp://localhost:{again}", 0) == messages
        assert replayed(context, f"tcp://localhost:{again}", 3) == messages[3:]
    finally:
        context.destroy(linger=0)
        llm.llm_engine.engine_core.shutdown()


def hashes_of_the_pool(llm: Any) -> list[int | bytes]:
    """Of all its cached blocks, as events name them."""
    from vllm.v1.core.kv_cache_utils import get_block_hash, maybe_convert_block_hash

    pool = llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool
    hashes = [block.block_hash for block in pool.blocks if block.block_hash is not None]
    return [maybe_convert_block_hash(get_block_hash(one)) for one in hashes]
