"""A pytest plugin for upstream's own tests, loaded with `-p parity.upstream_pool`.

Where VLLM_SIM_TEST_POOL is set it puts in our block pool, under LRU written on our interface, wherever it can serve. A
cache that our pool refuses (no prefix caching) keeps upstream's; the last line says how many of each there were. Of
several groups, and of one without full attention, our pool gives first what no hit can use, which upstream's does not;
that is left out here, so that all else of it is compared. Where VLLM_SIM_TEST_LIFTED is set the simulator's platform
refuses no configuration, and no model for want of a tokenizer.
"""

import functools
import itertools
import logging
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from parity.model import EXPORTED

PATIENCE = 20
"""Times longer than upstream waits for a child process, which imports vLLM: on a machine that has more to do."""
pools: Counter[str] = Counter()
in_tests: dict[type, type] = {}
"""What the tests' own modules get in place of upstream's pool; vLLM's modules keep theirs, which a manager's is."""


def pytest_configure() -> None:
    subprocess.run = _patient(subprocess.run)
    if os.environ.get("VLLM_SIM_TEST_POOL"):
        _put_pool()
    if os.environ.get("VLLM_SIM_TEST_LIFTED"):
        _lift_refusals()


def pytest_collection_finish(session: pytest.Session) -> None:
    modules = {item.module for item in session.items if isinstance(item, pytest.Function)}
    for module in modules:
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value in in_tests:
                setattr(module, name, in_tests[value])


def _lift_refusals() -> None:
    from vllm_sim.engine import answers, platform

    load = answers.load_answers
    platform.refuse_unsupported = lambda config: None
    answers.load_answers = lambda model: load(str(EXPORTED))


def _patient(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def patient(*args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        return run(*args, timeout=timeout and PATIENCE * timeout, **kwargs)

    return patient


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(
        f"pools: {pools['ours']} ours, {pools['of groups']} ours of groups, {pools['refused']} refused"
    )


@pytest.fixture
def caplog_vllm(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.LogCaptureFixture]:
    """Upstream's conftest, which imports more than is installed here, has it under this name."""
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.INFO):
        yield caplog


def _put_pool() -> None:
    from vllm.v1.core import block_pool
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    from vllm_sim.engine.group_pool import GroupBlockPool
    from vllm_sim.engine.pool import Description, PolicyBlockPool, PolicyQueue, adopt, check_supported
    from vllm_sim.eviction.boundaries import Boundaries
    from vllm_sim.eviction.online_cache import OnlineCache, online_context

    def online(pool: Any) -> OnlineCache:
        return OnlineCache("lru", online_context("lru", pool.num_gpu_blocks - 1))

    def describe() -> Callable[[Any], Description]:
        numbers = itertools.count()
        return lambda request: Description(next(numbers))

    upstream = KVCacheManager.__init__

    @functools.wraps(upstream)
    def init_manager(self: Any, *args: Any, **kwargs: Any) -> None:
        upstream(self, *args, **kwargs)
        try:
            check_supported(self)
        except ValueError:
            pools["refused"] += 1
            return
        adopt(self, online(self.block_pool), describe())
        pool = self.block_pool
        pools["of groups" if isinstance(pool, GroupBlockPool) else "ours"] += 1
        if isinstance(pool, GroupBlockPool):
            pool.free_block_queue.boundaries.__class__ = NothingDead

    class NothingDead(Boundaries):
        """Boundaries that leave every choice to the policy."""

        def first_dead(self) -> None:
            return None

    class LruBlockPool(PolicyBlockPool):
        """What a test gets that makes a pool without a manager."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            pools["ours"] += 1
            self.adopt(PolicyQueue(self.free_block_queue.get_all_free_blocks(), online(self), self.blocks), describe())

    KVCacheManager.__init__ = init_manager
    in_tests[block_pool.BlockPool] = LruBlockPool
