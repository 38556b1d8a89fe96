"""The points of the study of hints, by its TOML file, and what its rows mean.

results/hints.jsonl, JSON lines, a row a point: what ran, as in summary.jsonl, and

    key, code           as in the rows of study two (study/plan.py)
    experiment          "hints"
    mix, mix_seed       of study two; its place among the seeds of the mix
    said                what the clients say, by its name in the TOML file, and kinds, share, noise, lies of it
    capacities          shares of the working set; capacity_blocks is null where there are several
    data, quick         as in the rows of study two

and of the backend `fast`, lists with a number for each capacity:

    gain_tokens, gap_tokens     hit tokens over LRU, and of the optimum over LRU; LRU and the optimum hear nothing
    gain_over_silence_tokens    hit tokens over the same policy where nobody says anything
    lru_hit_tokens, prompt_tokens
    by_workload                 {name: prompt_tokens, gain_tokens, gain_over_silence_tokens}, sums over the capacities
    by_client                   the same of `speaking` and `silent` clients; where only a share says anything

of the engine, in place of these, load, seconds and warmup_s, as in the rows of study two, and the fields of
summary.jsonl without those of turns, workloads, tenants and sessions; what is due before `warmup_s` is left out.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from milestone3_code.study.build import seeded
from milestone3_code.study.plan import LIST, TABLES, kept, timing_of
from milestone3_code.study.study import MAIN_BLOCK, Timing
from vllm_sim.trace.hinting import KINDS, Hinting
from vllm_sim.workloads.tables import TEXT, TomlTable, number, read_toml, texts, whole

NOTHING = "nothing"


class Point(NamedTuple):
    """One row of the study."""

    mix: str
    mix_seed: int
    policy: str
    said: str
    hinting: Hinting
    capacities: tuple[str, ...]
    backend: str = "fast"
    timing: Timing | None = None
    """Of the engine."""
    block_size: int = MAIN_BLOCK

    @property
    def trace(self) -> str:
        """The mix's name under its seed."""
        return seeded(self.mix, self.mix_seed)


class Plan(NamedTuple):
    """What the file says."""

    points: list[Point]
    mixes: tuple[str, ...]
    seeds: int


def read_plan(path: Path, quick: bool) -> Plan:
    """The plan of a file, the engine's points first.

    Args:
        path: the TOML file.
        quick: whether only what its table `quick` names is kept.

    Raises:
        ConfigError: the TOML file cannot be used.
    """
    top = read_toml(path)
    small = top.need_table("quick") if quick else None
    mixes, capacities = (kept(top.need(name, LIST), small, name) for name in ("mixes", "capacities"))
    seeds = (small or top).need("seeds", whole(1))
    said = {NOTHING: Hinting(kinds=())} | _said(top.need_table("said"))
    points = [*_engine(top.need_table("engine"), small, said)]
    for values in top.need("grid", TABLES):
        grid = TomlTable(values, path, "grid")
        policies, names = _lists(grid, small, said)
        grid.close()
        for mix, seed, policy, name in product(mixes, range(seeds), policies, names):
            hinting = said[name]._replace(seed=seed)
            points.append(Point(mix, seed, policy, name, hinting, tuple(capacities)))
    return Plan(list(dict.fromkeys(points)), tuple(mixes), seeds)


def _said(tables: TomlTable) -> dict[str, Hinting]:
    found = {}
    for name in tables:
        table = tables.need_table(name)
        found[name] = Hinting(
            tuple(table.need("kinds", texts(*KINDS))),
            float(table.get("share", number(0, 1), 1.0)),
            float(table.get("noise", number(0, 10), 0.0)),
            float(table.get("lies", number(0, 1), 0.0)),
        )
        table.close()
    return found


def _engine(table: TomlTable, small: TomlTable | None, said: dict[str, Hinting]) -> Iterator[Point]:
    mixes = kept(table.need("mixes", LIST), small, "mixes")
    timing, capacity = timing_of(table, small), table.need("capacity", TEXT)
    policies, names = _lists(table, small, said)
    table.close()
    for mix, policy, name in product(mixes, policies, names):
        # Without hints `ttl` and `priority` are LRU, which hears none.
        if (policy == "lru") <= (name == NOTHING) and (policy in ("lru", "hybrid") or name != NOTHING):
            yield Point(mix, 0, policy, name, said[name], (capacity,), "engine", timing)


def _lists(table: TomlTable, small: TomlTable | None, said: dict[str, Hinting]) -> list[list[Any]]:
    names = table.need("said", texts(*said))
    return [kept(table.need("policies", LIST), small, "policies"), kept(names, small, "said")]
