"""What compiled code says of hits, misses and evictions is what the definition says, for random engines."""

from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import MODEL
from tests.engine.plain_ledger import PlainLedger
from tests.engine.random_engines import Case, draw_case, observe, write_rows
from vllm_sim.engine.backends import driver, ledger, ledger_kernel
from vllm_sim.engine.backends.block_log import CACHED, TAKEN
from vllm_sim.engine.backends.blockpool import make_manager
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised

CASES = 40


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> tuple[Path, TokenisedTrace]:
    environment.setenv(TRACE_VARIABLE, "set by each engine, and put back after these tests")
    path = write_rows(tmp_path_factory.mktemp("ledger") / "rows.jsonl")
    return path, load_tokenised(path, str(MODEL))


def check(case: Case, trace: tuple[Path, TokenisedTrace], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs a case with the ledger and with the plain one; returns what both say."""
    found = observe(case, *trace, plain_steps=False)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "make_ledger", lambda manager, unit_tokens: PlainLedger(manager))
        expected = observe(case, *trace, plain_steps=True)
    for name in ("served", "ledger", "evictions", "lifetimes"):
        assert found[name] == expected[name], name
    return found


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_random_engines_have_the_same_attribution(
    trace: tuple[Path, TokenisedTrace], asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_FIRST_HASHES", 2)
    numbers = ("evicted_blocks", "cold_blocks", "hit_blocks", "hit_generated_blocks")
    sums = dict.fromkeys(numbers, 0)
    for number in range(CASES):
        case = draw_case(number, trace[1], asynchronous=asynchronous)._replace(attribution=True)
        for row in check(case, trace, monkeypatch)["served"]:
            for name in numbers:
                sums[name] += row["admission"][name]
    assert min(sums.values()) > 100


@pytest.mark.parametrize(("loaded", "generated"), [((0, 2), [0, 1]), ((0, 0), [0, 0]), ((0, 1), [0, 0])])
def test_blocks_that_come_from_elsewhere_hold_what_they_held_before(
    loaded: tuple[int, int], generated: list[int]
) -> None:
    found, hashes = ledger.Ledger(make_manager(4)), [bytes([i]) * 32 for i in (1, 2)]
    found._names += ["first", "second"]
    for request, blocks, about in ((0, [1, 2], (-1, 1, 0, 0)), (1, [3, 4], (-1, 2, *loaded))):
        found._log_hashes += hashes
        found.note(CACHED, blocks, (request, *about))
        if not request:
            found.note(TAKEN, [2, 1], (1, -1, 0, 0, 0))
    assert found.evictions == {("first", "second"): 2}
    assert found._by_block[[3, 4], ledger_kernel.GENERATED].tolist() == generated
    assert found.hashes == set(hashes)
