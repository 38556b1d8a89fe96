"""Random engines, stepped plainly and sparsely: what is compared in test_sparse.py.

A case is drawn by its number: rows of one trace over four token ids, so that hits and copies abound, an engine of
random sizes, and a way to arrive. `observe` runs one and keeps all that can be observed: what was served, in its order;
every block taken, hit, cached and freed, with its virtual time; what a policy was called with; every step; and the
pool that it leaves.
"""

import dataclasses
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.engine.conftest import MODEL
from vllm_sim.block_rules import computed_tokens, needed_blocks
from vllm_sim.engine.backends.driver import Arrival, Driver, RequestSettings, Setup, make_core
from vllm_sim.engine.backends.engine_builder import RowFacts
from vllm_sim.models.work import dense_work
from vllm_sim.replay.engine_backend import model_config
from vllm_sim.replay.latency import LatencyTable, make_latency
from vllm_sim.trace.tokens import TokenisedTrace

FAMILIES, FAMILY_ROWS = 10, 30
DRAWN_ROWS = 2 * FAMILIES * FAMILY_ROWS
END = 128009
POLICIES = ("arc", "fifo", "hybrid", "lfu", "s3fifo", "slru", "workload_aware")
LATENCIES = {
    "zero": None,
    "roofline": make_latency("roofline", dense_work(model_config(str(MODEL))), "l4"),
    "table": LatencyTable(1.7, 0.3, 0.013, 0.11),
}


def write_rows(path: Path) -> Path:
    """Families of rows, each answered with what follows its prompt in one text; and rows of their own."""
    draw = random.Random(5)
    rows = []
    for _ in range(FAMILIES):
        text = draw.choices(range(4), k=150)
        for _ in range(FAMILY_ROWS):
            begin, end = sorted(draw.sample(range(1, draw.choice((20, 60, 150))), k=2))
            rows.append((text[:begin], text[begin:end]))
    texts = [draw.choices(range(4), k=draw.choice((3, 9, 30))) for _ in range(6)]
    for _ in range(FAMILIES * FAMILY_ROWS):
        text = draw.choice(texts)
        prompt = text[: draw.randint(1, len(text))] + draw.choices(range(4), k=draw.choice((0, 0, 1, 7, 40)))
        rows.append((prompt, draw.choices(range(4), k=draw.choice((1, 2, 5, 20, 60)))))
    with path.open("w") as file:
        for prompt, answer in rows:
            is_cut = draw.random() < 0.5
            row = {"prompt_token_ids": prompt, "response_token_ids": answer + [END] * (not is_cut)}
            file.write(json.dumps(row | ({"finish_reason": "length"} if is_cut else {})) + "\n")
        for prompt, answer in PLANNED_ROWS:
            row = {"prompt_token_ids": prompt, "response_token_ids": answer}
            file.write(json.dumps(row | ({"finish_reason": "length"} if answer[-1] != END else {})) + "\n")
    return path


class Case(NamedTuple):
    """An engine, and what is asked of it."""

    setup: Setup
    rows: list[int]
    arrivals: list[Arrival]
    settings: list[RequestSettings]
    concurrency: int | None
    latency: str
    attribution: bool
    stops: dict[int, int]
    """End tokens that stand within answers, by row: no trace has them, and the engine could meet them."""


def draw_case(number: int, trace: TokenisedTrace, policy: str | None = None, asynchronous: bool = False) -> Case:
    draw = random.Random(number)
    size = draw.choice((1, 1, 2, 2, 3, 4, 5, 8, 16))
    family = draw.choice((range(DRAWN_ROWS), range(FAMILY_ROWS), range(FAMILY_ROWS, 2 * FAMILY_ROWS)))
    rows = sorted(draw.sample(family, k=draw.randint(1, draw.choice((4, 15, 30)))))
    if draw.random() < 0.5:
        draw.shuffle(rows)
    lengths = {row: computed_tokens(len(trace.prompt(row)), len(trace.response(row))) for row in rows}
    longest = max(needed_blocks(length, size) for length in lengths.values())
    seqs = draw.choice((1, 2, 3, 5, 8, 16, 64))
    setup = Setup(
        capacity_blocks=max(1, int(longest * draw.choice((0.7, 1, 1, 1.2, 1.5, 2, 3, 5, 20)))),
        block_size=size,
        max_model_len=max(lengths.values()) + draw.choice((0, 1, 1, 2, 50)),
        model_positions=131072,
        max_num_seqs=seqs,
        max_num_batched_tokens=seqs + draw.choice((0, 1, 3, 10, 40, 500)),
        async_scheduling=asynchronous,
        policy=policy or "lru",
        seed=number,
    )
    is_closed = draw.random() < 0.5
    gap_ms, followers = draw.choice((0.0, 1.0, 20.0)), draw.choice((0, 0.3, 0.9))
    arrivals = []
    for place, row in enumerate(rows):
        before = draw.choice(rows[:place]) if place and draw.random() < followers else None
        arrivals.append(Arrival(row, before, 0.0 if is_closed else draw.randint(0, 4 * place) * gap_ms))
    settings = [RequestSettings()] * len(trace)
    salted = draw.random() < 0.3
    for row in rows:
        salt = draw.choice((None, "a")) if salted else None
        settings[row] = RequestSettings(salt, 0, draw.choice((None, None, len(trace.response(row)))))
    stops = {row: draw.randrange(4) for row in rows} if draw.random() < 0.3 else {}
    concurrency = draw.choice((1, 2, 5, 20)) if is_closed else None
    return Case(setup, rows, arrivals, settings, concurrency, draw.choice(list(LATENCIES)), draw.random() < 0.6, stops)


_TEXT = list(range(10, 90))
PLANNED_ROWS = [
    (_TEXT[:5], _TEXT[5:17]),
    (_TEXT[:13], [1, 2]),
    (_TEXT[:5], _TEXT[5:30]),
    (_TEXT[:60], [1]),
    ([7, 8], [1]),
    (_TEXT[:5], [*_TEXT[5:12], END]),
]
PLANNED = ("longer hit", "rejected", "longest")


def plan_case(name: str, trace: TokenisedTrace, asynchronous: bool = False) -> Case:
    """A case that random ones seldom are.

    `longer hit`: the second row gets one block too few, until the first has cached, by decoding, one that it can hit;
    a step later the first takes another one. `rejected`: a row is rejected while another decodes, and a third follows
    it. `longest`: a row ends because max_model_len is reached, before max_tokens and without an end token.
    """
    first = DRAWN_ROWS
    rows, blocks, longest = {
        "longer hit": ([first, first + 1], 4, 100),
        "rejected": ([first + 2, first + 3, first + 4], 8, 100),
        "longest": ([first + 5], 8, 13),
    }[name]
    arrivals = [Arrival(row, None, 0.0) for row in rows]
    if name == "rejected":
        arrivals[1:] = [Arrival(rows[1], None, 20.0), Arrival(rows[2], rows[1], 0.0)]
    setup = Setup(
        capacity_blocks=blocks,
        block_size=4,
        max_model_len=longest,
        model_positions=131072,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        async_scheduling=asynchronous,
    )
    stops = {rows[0]: 99} if name == "longest" else {}
    return Case(setup, rows, arrivals, [RequestSettings()] * len(trace), None, "table", True, stops)


def make_driver(case: Case, path: Path, trace: TokenisedTrace, plain_steps: bool, on_step: Any = None) -> Driver:
    facts = RowFacts(np.arange(len(trace)) % 3, [one.cache_salt for one in case.settings], None)
    core = make_core(path, str(MODEL), case.setup, None if case.setup.policy == "lru" else facts)
    latency = LATENCIES[case.latency]
    driver = Driver(
        core,
        trace,
        None if latency is None else latency.step_ms,
        case.settings,
        case.concurrency,
        on_step=on_step,
        attribution=case.attribution,
        plain_steps=plain_steps,
    )
    if case.stops:
        known_stop = driver.executor.stop_token
        driver.executor.stop_token = lambda row: case.stops.get(row, known_stop(row))  # type: ignore[method-assign]
    return driver


def log_calls(target: Any, names: tuple[str, ...], log: list[Any], driver: Driver) -> None:
    """Notes what these methods get and give, and when."""
    for name in names:
        log_call(target, name, log, driver)


def log_call(target: Any, name: str, log: list[Any], driver: Driver) -> None:
    original = getattr(target, name)

    def logged(*arguments: Any, **named: Any) -> Any:
        arguments = tuple(list(one) if hasattr(one, "__next__") else one for one in arguments)
        result = original(*arguments, **named)
        log.append((driver.now_ms, name, comparable(arguments), comparable(named), comparable(result)))
        return result

    setattr(target, name, logged)


def comparable(value: Any) -> Any:
    """A value as it can be compared: blocks and requests by their names."""
    if hasattr(value, "block_id"):
        return value.block_id
    if hasattr(value, "request_id"):
        return value.request_id, value.num_computed_tokens, len(value.block_hashes)
    if isinstance(value, dict):
        return {name: comparable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    return value


MOST_STEPS = 20_000
"""Far more than any case takes."""
POOL_CALLS = ("get_new_blocks", "touch", "free_blocks", "_insert_block_hash", "_remove_cached_block_hashes")
POLICY_CALLS = ("serve", "touch", "cache", "release", "evict")


def limit_steps(driver: Driver) -> None:
    """Ends a run that does not end by itself, as under a fault."""
    step, count = driver.core.step_fn, itertools.count(1)

    def limited() -> Any:
        assert next(count) < MOST_STEPS
        return step()

    driver.core.step_fn = limited


def observe(
    case: Case, path: Path, trace: TokenisedTrace, plain_steps: bool, make: Callable[..., Driver] = make_driver
) -> dict[str, Any]:
    """Runs a case; returns all that can be observed of the run, by name."""
    steps: list[Any] = []
    driver = make(case, path, trace, plain_steps, steps.append)
    pool, log = driver.scheduler.kv_cache_manager.block_pool, []  # type: ignore[var-annotated]
    log_calls(pool, POOL_CALLS, log, driver)
    if case.setup.policy != "lru":
        log_calls(pool._online, POLICY_CALLS, log, driver)  # type: ignore[attr-defined]
    limit_steps(driver)
    try:
        outcomes = [dataclasses.asdict(one) for one in driver.run(case.arrivals)]
    finally:
        driver.core.shutdown()
    found: dict[str, Any] = {
        "reason": driver.plain_reason,
        "log": log,
        "steps": steps,
        "served": outcomes,
        "end": (driver.now_ms, driver.scheduler.current_step, len(driver.scheduler.requests)),
        "free": [block.block_id for block in pool.free_block_queue.get_all_free_blocks()],
        "blocks": [(block.block_id, block.block_hash, block.ref_cnt) for block in pool.blocks],
        "hashes": comparable(list(pool.cached_block_hash_to_block._cache.items())),
    }
    if driver.ledger is not None:
        ledger = driver.ledger
        found["ledger"] = [ledger.working_set_blocks, ledger.evicted_blocks, ledger.orphan_blocks]
        found["evictions"] = list(ledger.evictions.items())
        found["lifetimes"] = ledger.lifetime_rows()
    return found


def difference(case: Case, path: Path, trace: TokenisedTrace) -> str | None:
    """The first thing in which a sparse run of a case differs from a plain one."""
    plain = observe(case, path, trace, plain_steps=True)
    sparse = observe(case, path, trace, plain_steps=False)
    assert sparse["reason"] is None, sparse["reason"]
    for name in plain:
        if name == "reason" or plain[name] == sparse[name]:
            continue
        both = plain[name], sparse[name]
        if not all(isinstance(found, list) for found in both):
            return f"{name}: plain {both[0]}, sparse {both[1]}"
        for place in range(max(map(len, both))):
            first, second = (str(found[place : place + 1]) for found in both)
            if first != second:
                return f"{name} {place}: plain {first}, sparse {second}"
        return f"{name} differs"
    return None
