"""Policies in the engine: a batch with chunks and preemptions, one request at a time, resets, and what is refused."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from vllm.config import VllmConfig
from vllm.entrypoints.llm import LLM
from vllm.sampling_params import SamplingParams
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import FreeKVCacheBlockQueue
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from tests.engine.conftest import Start, generate, prompts_of
from tests.engine.test_scheduling import preemptions
from vllm_sim.engine import compat
from vllm_sim.engine.contact import configure
from vllm_sim.engine.options import SCHEDULER, name_scheduler
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.engine.pool import PolicyBlockPool
from vllm_sim.eviction.chains import Requests, link
from vllm_sim.eviction.registry import POLICIES
from vllm_sim.eviction.simulate import simulate

ONLINE = [name for name in POLICIES if name not in ("lru", "belady")]
QUICK = ("hybrid", "arc", "tests.eviction.user_policies:MostRecent")
"""In `make test`: our own, one with ghosts, and a user's; the others are in `make test-all`."""
BLOCK_SIZE = 8
SHARED = "A library of eight floors, each with its own colour and its own smell. " * 6
ROWS: list[dict[str, Any]] = [
    {
        "prompt": f"{SHARED[: 40 * (i * i % 9)]}question {i % 40}",
        "response": f"answer {i % 40}" + " and more" * (i % 50),
    }
    for i in range(200)
]


def scheduler_of(llm: LLM) -> Scheduler:
    return llm.llm_engine.engine_core.engine_core.scheduler  # type: ignore[attr-defined]


def pool_of(llm: LLM) -> Any:
    return scheduler_of(llm).kv_cache_manager.block_pool


def few(policy: str, *others: object, quick: bool = True) -> Any:
    """Parameters of a test that starts an engine for each policy."""
    marks = () if policy in QUICK and quick else pytest.mark.slow
    return pytest.param(policy, *others, marks=marks)


@pytest.mark.parametrize(
    ("policy", "asynchronous"),
    [
        few(policy, asynchronous, quick=not asynchronous or policy == "hybrid")
        for policy in [*ONLINE, "vllm_sim.eviction.policies.lru:Lru"]
        for asynchronous in (False, True)
    ],
)
def test_a_full_cache_under_any_policy_answers_and_loses_no_block(
    start: Start, policy: str, asynchronous: bool
) -> None:
    llm = start(
        ROWS,
        {"eviction": policy},
        async_scheduling=asynchronous,
        max_num_batched_tokens=128,
        max_model_len=256,
        num_gpu_blocks_override=41,
        disable_log_stats=False,
    )
    assert type(scheduler_of(llm)) is (AsyncScheduler if asynchronous else Scheduler)
    answers = [output.text for output in generate(llm, [row["prompt"] for row in ROWS])]
    assert answers == [row["response"] for row in ROWS]
    assert preemptions(llm) > 10
    pool = pool_of(llm)
    assert pool.get_num_free_blocks() == 40
    assert sorted(block.block_id for block in pool.free_block_queue.get_all_free_blocks()) == list(range(1, 41))
    assert pool._online.evicted_blocks > 100
    assert pool._online.orphan_blocks == 0
    cached = {block.block_id for block in pool.blocks if block.block_hash is not None}
    assert set(pool._online.held()) == cached
    assert llm.reset_prefix_cache()
    assert not pool._online.held()
    assert pool.get_num_free_blocks() == len(pool.free_block_queue.get_all_free_blocks()) == 40


def cached_blocks(llm: LLM) -> Iterator[int]:
    """The blocks that each row of the trace hits, one request after the other."""
    for prompt in prompts_of(llm):
        output = llm.generate([prompt], SamplingParams(max_tokens=300), use_tqdm=False)[0]
        yield (output.num_cached_tokens or 0) // BLOCK_SIZE


def requests_of(llm: LLM) -> Requests:
    trace = llm.llm_engine.model_executor._answers.trace  # type: ignore[attr-defined]
    numbers: dict[bytes, int] = {}
    rows, prompt_tokens, output_tokens = [], [], []
    for row in range(len(trace)):
        prompt, response = trace.prompt(row), trace.response(row)
        text = np.concatenate([prompt, response])[:-1]
        blocks = text[: text.size // BLOCK_SIZE * BLOCK_SIZE].reshape(-1, BLOCK_SIZE)
        rows.append([numbers.setdefault(block.tobytes(), len(numbers)) for block in blocks])
        prompt_tokens.append(prompt.size)
        output_tokens.append(response.size)
    begins = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    zeros = np.zeros(len(rows), np.int64)
    ids = np.array([name for row in rows for name in row], np.int64)
    return Requests(ids, begins, np.array(prompt_tokens), np.array(output_tokens), zeros, zeros)


@pytest.mark.parametrize("policy", map(few, ["lru", *ONLINE, "tests.eviction.user_policies:MostRecent"]))
def test_one_request_at_a_time_hits_what_the_fast_cache_hits(start: Start, policy: str) -> None:
    llm = start(
        ROWS, {"eviction": policy}, async_scheduling=False, max_model_len=256, num_gpu_blocks_override=61, seed=0
    )
    hits = list(cached_blocks(llm))
    assert hits == simulate(link(requests_of(llm), BLOCK_SIZE), policy, 60).hit.tolist()
    assert sum(hits) > 200


def test_with_lru_nothing_is_touched(start: Start) -> None:
    llm = start(ROWS, {"eviction": "lru"})
    assert type(scheduler_of(llm)) is AsyncScheduler
    assert type(scheduler_of(llm).kv_cache_manager) is KVCacheManager
    assert type(pool_of(llm)) is BlockPool
    assert type(pool_of(llm).free_block_queue) is FreeKVCacheBlockQueue


class Named(AsyncScheduler):
    """A scheduler that a user or a platform names."""


def config_of(llm: LLM) -> VllmConfig:
    return llm.llm_engine.vllm_config


def test_a_policy_is_put_under_the_scheduler_that_the_configuration_names(start: Start) -> None:
    llm = start(ROWS[:3], {"eviction": "arc"}, scheduler_cls=Named)
    assert type(scheduler_of(llm)) is Named
    assert type(pool_of(llm)) is PolicyBlockPool
    assert config_of(llm).scheduler_config.scheduler_cls == SCHEDULER
    assert config_of(llm).additional_config == {
        "vllm_sim": {"eviction": "arc", "scheduler_cls": f"{__name__}.{Named.__qualname__}"}
    }


def test_a_named_policy_scheduler_needs_no_rebinding(start: Start) -> None:
    compat.revert()
    try:
        llm = start(ROWS[:3], {"eviction": "arc"}, scheduler_cls=SCHEDULER)
        assert type(scheduler_of(llm)) is AsyncScheduler
        assert type(pool_of(llm)) is PolicyBlockPool
        assert not hasattr(VllmConfig.__post_init__, "__wrapped__")
    finally:
        compat.apply()


@pytest.mark.parametrize("options", [{}, {"eviction": "lru"}, {"on_inexact": "warn"}])
def test_without_a_policy_no_scheduler_is_named(options: dict[str, Any]) -> None:
    config = VllmConfig(additional_config={"vllm_sim": options})
    name_scheduler(config)
    assert config.scheduler_config.scheduler_cls is None
    assert config.additional_config == {"vllm_sim": options}


NAMING = """
import sys
from vllm.config import DeviceConfig, VllmConfig
from vllm_sim.engine import compat
compat.apply("eviction")
config = VllmConfig(device_config=DeviceConfig(device="cpu"), additional_config={"vllm_sim": {"eviction": "arc"}})
print(config.scheduler_config.scheduler_cls, "llvmlite" in sys.modules)
"""


@pytest.mark.slow
def test_a_configuration_of_another_platform_names_a_policy_and_does_not_import_llvmlite() -> None:
    """Where it is imported, vLLM's CPU worker does not start."""
    environment = {name: value for name, value in os.environ.items() if name != TRACE_VARIABLE}
    done = subprocess.run([sys.executable, "-c", NAMING], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split()[-2:] == [SCHEDULER, "False"]


def test_a_configuration_that_is_read_twice_is_as_after_once() -> None:
    config = VllmConfig(additional_config={"vllm_sim": {"eviction": "arc"}})
    name_scheduler(config)
    name_scheduler(config)
    assert config.scheduler_config.scheduler_cls == SCHEDULER
    assert config.additional_config == {"vllm_sim": {"eviction": "arc"}}


def test_a_scheduler_that_cannot_be_imported_by_name_is_refused() -> None:
    class Local(Scheduler):
        pass

    config = VllmConfig(additional_config={"vllm_sim": {"eviction": "lru"}})
    configure(config, additional_config={"vllm_sim": {"eviction": "arc"}})
    configure(config.scheduler_config, scheduler_cls=Local)
    with pytest.raises(ValueError, match=r"cannot serve the scheduler .*Local; allowed: a class of a module"):
        name_scheduler(config)


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"eviction": "belady"}, {}, "belady needs the future"),
        ({"eviction_params": {"share": 3}}, {}, "policy lru has no parameter 'share'; allowed: none"),
        ({"eviction": "lur"}, {}, "policy is 'lur'; allowed: lru, fifo"),
        ({"eviction": "slru", "eviction_params": {"protected": 3}}, {}, "protected is 3"),
        ({"eviction": "arc", "eviction_params": {"share": 3}}, {}, "no parameter 'share'; allowed: none"),
        ({"eviction": "arc"}, {"enable_prefix_caching": False}, "without prefix caching"),
        ({"eviction": "arc", "scheduler_cls": SCHEDULER}, {}, "allowed: another module.Class"),
        ({"eviction": "arc", "scheduler_cls": 7}, {}, "scheduler_cls of vllm_sim is 7; allowed"),
    ],
)
def test_what_cannot_be_served_is_refused(
    start: Start, options: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        start(ROWS[:3], options, **arguments)
