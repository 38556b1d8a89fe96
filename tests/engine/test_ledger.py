"""What compiled code says of hits, misses and evictions is what the definition says, for random engines."""

from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import MODEL
from tests.engine.plain_ledger import PlainLedger
from tests.engine.random_engines import Case, draw_case, observe, write_rows
from vllm_sim.engine.backends import driver, ledger
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
