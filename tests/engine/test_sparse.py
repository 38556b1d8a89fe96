"""Sparse steps are plain steps: everything that can be observed of a run is the same, for random engines."""

import dataclasses
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from tests.engine.conftest import MODEL
from tests.engine.random_engines import (
    PLANNED,
    POLICIES,
    difference,
    draw_case,
    make_driver,
    observe,
    plan_case,
    write_rows,
)
from tests.engine.sparse_traps import ASYNCHRONOUS, TRAPS, Trap
from tests.engine.test_replay import ROW_FILES, conversations, settings, write
from vllm_sim.engine.backends.driver import use_stored_hashes
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.replay.files import replay
from vllm_sim.step_load import EMPTY, decode_load, load_of
from vllm_sim.trace import vocabulary
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised

CHUNK = 40
sparse_where_asynchronous = pytest.mark.skipif(
    AsyncScheduler._update_request_with_output is Scheduler._update_request_with_output,
    reason="asynchronous schedules of this vLLM are stepped plainly",
)


class Rows(NamedTuple):
    """The trace that all cases draw from."""

    path: Path
    trace: TokenisedTrace


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Rows:
    environment.setenv(TRACE_VARIABLE, "set by each engine, and put back after these tests")
    path = write_rows(tmp_path_factory.mktemp("sparse") / "rows.jsonl")
    return Rows(path, load_tokenised(path, str(MODEL)))


@pytest.fixture(autouse=True)
def seldom_collected() -> Iterator[None]:
    """Garbage is collected after each test: an engine that is collected while the next one starts costs as much."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def check_cases(rows: Rows, numbers: range, policies: tuple[str, ...], asynchronous: bool) -> None:
    for number in numbers:
        case = draw_case(number, rows.trace, policies[number % len(policies)], asynchronous)
        assert difference(case, *rows) is None, f"case {number}: {case}"


either = pytest.mark.parametrize(
    "asynchronous", [False, pytest.param(True, marks=sparse_where_asynchronous)], ids=["sync", "async"]
)


@either
@pytest.mark.parametrize("first", range(0, 80, CHUNK))
def test_random_engines_are_the_same_stepped_sparsely(rows: Rows, first: int, asynchronous: bool) -> None:
    check_cases(rows, range(first, first + CHUNK), ("lru",), asynchronous)


@either
@pytest.mark.parametrize("name", PLANNED)
def test_planned_engines_are_the_same_stepped_sparsely(rows: Rows, name: str, asynchronous: bool) -> None:
    assert difference(plan_case(name, rows.trace, asynchronous), *rows) is None


@either
def test_random_policies_hear_the_same_of_sparse_steps(rows: Rows, asynchronous: bool) -> None:
    check_cases(rows, range(CHUNK), POLICIES[:2], asynchronous)  # compiling all of them takes minutes


@pytest.mark.slow
@either
@pytest.mark.parametrize("policies", [("lru",), POLICIES], ids=["lru", "policies"])
@pytest.mark.parametrize("first", range(1000, 3000, 5 * CHUNK))
def test_thousands_of_random_engines_are_the_same(
    rows: Rows, first: int, policies: tuple[str, ...], asynchronous: bool
) -> None:
    check_cases(rows, range(first, first + 5 * CHUNK), policies, asynchronous)


@pytest.mark.parametrize(
    "trap",
    [*TRAPS, *(pytest.param(trap, marks=sparse_where_asynchronous) for trap in ASYNCHRONOUS)],
    ids=lambda trap: trap.__name__,
)
def test_a_fault_of_sparse_steps_is_found(rows: Rows, trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    place = (TRAPS | ASYNCHRONOUS)[trap]
    if isinstance(place, str):
        case = plan_case(place, rows.trace)
    else:
        case = draw_case(place, rows.trace, "arc" if "policy" in trap.__name__ else None, trap in ASYNCHRONOUS)
    trap(monkeypatch)
    plain = observe(case, *rows, plain_steps=True)
    try:
        sparse = observe(case, *rows, plain_steps=False)
    except (AssertionError, IndexError, ValueError):  # upstream's own checks
        return
    assert any(plain[name] != sparse[name] for name in plain if name != "reason")


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    "options",
    [
        {"max_num_seqs": 4},
        {"concurrency": 6, "capacity_blocks": 40, "policy": "arc"},
        {"capacity_blocks": 45, "policy": "belady", "device": "l4"},
        {"concurrency": 3, "attribution": False, "latency_model": "zero", "capacity_blocks": 30},
        pytest.param(
            {"async_scheduling": True, "max_num_seqs": 4, "capacity_blocks": 45, "device": "l4"},
            marks=sparse_where_asynchronous,
        ),
        pytest.param(
            {"async_scheduling": True, "concurrency": 6, "capacity_blocks": 40, "policy": "arc"},
            marks=sparse_where_asynchronous,
        ),
    ],
    ids=str,
)
def test_sparse_and_plain_steps_write_the_same_bytes(tmp_path: Path, options: dict[str, Any]) -> None:
    trace = write(tmp_path / "conversations.jsonl", conversations(12, 5, seed=1))
    for plain_steps in (True, False):
        out = tmp_path / str(plain_steps)
        replay(trace, out, settings(**options, plain_steps=plain_steps), timeline=out / "timeline.json")
        about = json.loads((out / "run.json").read_text())
        assert about["steps"] == ("plain: --plain-steps" if plain_steps else "sparse")
    for file in (tmp_path / "True").iterdir():
        if file.name != "run.json":
            assert file.read_bytes() == (tmp_path / "False" / file.name).read_bytes(), file.name
    names = {file.name for file in (tmp_path / "False").iterdir()}
    assert names >= (set(ROW_FILES) if options.get("attribution", True) else {"requests.jsonl", "summary.jsonl"})


@pytest.mark.parametrize(
    ("upstream", "reason"),
    [
        ({"scheduling_policy": "priority"}, "the order priority"),
        ({"watermark": 0.2}, "a watermark"),
        ({"long_prefill_token_threshold": 8}, "long_prefill_token_threshold"),
        ({"enable_chunked_prefill": False}, "no chunked prefill"),
        ({"scheduler_reserve_full_isl": False}, "no scheduler_reserve_full_isl"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_what_is_not_shown_to_be_exact_steps_plainly_and_says_why(
    rows: Rows, upstream: dict[str, Any], reason: str
) -> None:
    case = draw_case(3, rows.trace)
    setup = dataclasses.replace(case.setup, max_num_batched_tokens=4096, upstream=upstream)
    found = observe(case._replace(setup=setup, stops={}), *rows, plain_steps=False)
    assert found["reason"] == reason
    assert len(found["served"]) == len(case.rows)


def test_a_load_is_the_same_however_it_is_summed() -> None:
    contexts = [1, 7, 30, 31]
    assert decode_load(4, sum(contexts)) == load_of((1, context, True) for context in contexts)
    both = [(20, 0, True), (1, 30, True), (1, 0, True), (3, 5, False)]
    assert load_of(both[:2]).plus(load_of(both[2:])) == load_of(both)
    assert EMPTY == load_of([]) == decode_load(0, 0)


def test_stored_hashes_are_those_that_upstream_computes(rows: Rows) -> None:
    for number in range(400):
        case = draw_case(number, rows.trace)
        if case.setup.block_size >= 8 and any(one.cache_salt for one in case.settings):
            break
    hashed = observe(case, *rows, plain_steps=True)

    def make(*arguments: Any, **named: Any) -> Any:
        driver = make_driver(*arguments, **named)
        before = driver.core.request_block_hasher
        use_stored_hashes(driver.core, rows.trace, [one.cache_salt for one in case.settings])
        assert driver.core.request_block_hasher is not before
        return driver

    for _ in ("written", "read"):
        stored = observe(case, *rows, plain_steps=False, make=make)
        assert {name: stored[name] for name in stored if name != "reason"} == {
            name: hashed[name] for name in hashed if name != "reason"
        }


def test_a_file_of_other_hashes_is_an_error(rows: Rows) -> None:
    case = next(case for case in (draw_case(n, rows.trace) for n in range(99)) if case.setup.block_size == 16)
    driver = make_driver(case, *rows, plain_steps=False)
    try:
        before, hasher = set(rows.trace.folder.glob("hashes-16-*")), driver.core.request_block_hasher
        use_stored_hashes(driver.core, rows.trace, ["other"] * len(rows.trace))
        (path,) = set(rows.trace.folder.glob("hashes-16-*")) - before
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
        driver.core.request_block_hasher = hasher  # as in a new engine
        with pytest.raises(ValueError, match="does not hold the block hashes of its trace; delete it"):
            use_stored_hashes(driver.core, rows.trace, ["other"] * len(rows.trace))
    finally:
        driver.core.shutdown()


@pytest.mark.usefixtures("rows")
def test_a_trace_whose_tokens_are_cached_is_replayed_without_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = write(tmp_path / "conversations.jsonl", conversations(3, 3, seed=2))
    load_tokenised(trace, str(MODEL))
    from vllm.v1 import structured_output

    def unwanted(*_: Any, **__: Any) -> Any:
        raise AssertionError("a tokenizer is loaded")

    monkeypatch.setattr(vocabulary, "_tokenizer", unwanted)
    monkeypatch.setattr(structured_output, "cached_tokenizer_from_config", unwanted)
    assert replay(trace, tmp_path / "out", settings(concurrency=2)).output_tokens > 0
