"""The configuration of a workload, a TOML file:

    seed = 0                       every random number depends on it
    sessions = 500                 what a source's share is a share of; needed where one has a share

    [sources.NAME]                 NAME: tag of the requests, prefix of their ids, seed of the source
    kind = "trace"                 trace, agents, documents, fewshot, oneoff; each has keys of its own
    sessions = 100                 or: share = 0.2 (for trace and agents neither: all)
    workload = "chat"              the tag (default: the trace's own, else NAME)
    tenant, cache_salt             for every request (default: the trace's own)
    start_s, end_s                 nothing arrives before the one (default: 0), or at or after the other
    arrivals = {kind = "gamma", sessions_per_s = 2.0, burstiness = 0.5}     poisson | gamma | recorded | at_once | file;
                                   a rate may be requests_per_s; file has path (a CSV of Azure or BurstGPT) and speedup
    think_ms = {kind = "lognormal", median = 8000, sigma = 1.0}             a distribution, or {kind = "recorded"}
    tool_ms = {kind = "fixed", value = 300}      before a turn that brings a tool's result (default: think_ms)
    get = "COMMAND"                shown where the source's file is missing

Paths start at the file's folder. For the distributions see distribution.py, for the sources' keys their modules.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from vllm_sim.workloads.arrivals import Arrivals, Kind, Think, Thinking
from vllm_sim.workloads.distribution import KINDS, Fixed, read_distribution
from vllm_sim.workloads.session import Source
from vllm_sim.workloads.sources import SOURCES
from vllm_sim.workloads.tables import TEXT, ConfigError, Rule, TomlTable, choice, number, read_toml, whole

RATES = {name: number(1e-6, 1e6) for name in ("sessions_per_s", "requests_per_s")}
AMOUNTS = {"sessions": whole(1), "share": number(0, 1, above=True)}
NAME = Rule(lambda value: isinstance(value, str) or type(value) is int, "a text or a whole number")
DEFAULT_THINK = Fixed(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A source and how its sessions become rows."""

    name: str
    source: Source
    sessions: int | None
    """None: all that the source has."""
    workload: str | None
    tenant: str | int | None
    cache_salt: str | None
    start_ms: float
    end_ms: float
    """Infinite where the file has none."""
    arrivals: Arrivals
    thinking: Thinking


@dataclass(frozen=True, slots=True)
class Workload:
    """What a configuration says; one part at least."""

    path: Path
    seed: int
    parts: list[Part]


def read_workload(path: Path) -> Workload:
    """Reads a configuration.

    Raises:
        ConfigError: it cannot be used; names file, table, key, value and what is allowed.
    """
    top = read_toml(path)
    seed = top.get("seed", whole(0, 2**63), 0)
    total = top.get("sessions", whole(1))
    tables = top.need_table("sources")
    parts = [_read_part(tables.need_table(name), name, total) for name in tables]
    top.close()
    if not parts:
        raise ConfigError(f"{tables}: it is empty; allowed: a table [sources.NAME] for each source")
    shares = sum(tables.need_table(part.name).get("share", AMOUNTS["share"], 0) for part in parts)
    if shares > 1 + 1e-9:
        raise ConfigError(f"{tables}: the shares add up to {shares:g}; allowed: 1 or less")
    return Workload(path, seed, parts)


def _read_part(table: TomlTable, name: str, total: int | None) -> Part:
    kind = table.need("kind", choice(*SOURCES))
    # Asked for here, since it is read only where a file is missing.
    table.get("get", TEXT)
    sessions = _read_amount(table, total)
    start_s = table.get("start_s", number(0, 1e9), 0)
    end_s = table.get("end_s", number(start_s, 1e9, above=True), math.inf)
    think = _read_think(table, "think_ms", DEFAULT_THINK)
    part = Part(
        name=name,
        source=SOURCES[kind](table),
        sessions=sessions,
        workload=table.get("workload", TEXT),
        tenant=table.get("tenant", NAME),
        cache_salt=table.get("cache_salt", TEXT),
        start_ms=start_s * 1000,
        end_ms=end_s * 1000,
        arrivals=_read_arrivals(table.need_table("arrivals")),
        thinking=Thinking(think, _read_think(table, "tool_ms", think)),
    )
    table.close()
    return part


def _read_amount(table: TomlTable, total: int | None) -> int | None:
    if not any(key in table for key in AMOUNTS):
        for key in AMOUNTS:
            table.get(key, AMOUNTS[key])
        return None
    key = table.one_of(AMOUNTS)
    amount = table.need(key, AMOUNTS[key])
    if key == "sessions":
        return amount
    if total is None:
        raise table.refuse("share", "a share only where the file begins with sessions = NUMBER")
    return max(1, round(amount * total))


def _read_arrivals(table: TomlTable) -> Arrivals:
    kind: Kind = table.need("kind", choice(*get_args(Kind)))
    rates = {}
    burstiness = 1.0
    if kind in ("poisson", "gamma"):
        key = table.one_of(RATES)
        rates[key] = table.need(key, RATES[key])
    if kind == "gamma":
        burstiness = table.need("burstiness", number(1e-3, 1e6))
    path, speedup = None, 1.0
    if kind == "file":
        path, speedup = table.file("path"), table.get("speedup", number(1e-6, 1e6), 1.0)
        if not path.is_file():
            raise table.refuse("path", "a CSV of arrivals that is there")
    table.close()
    return Arrivals(kind=kind, burstiness=burstiness, path=path, speedup=speedup, **rates)


def _read_think(table: TomlTable, key: str, default: Think) -> Think:
    inner = table.table(key)
    if inner is None:
        return default
    if inner.need("kind", choice(*KINDS, "recorded")) == "recorded":
        inner.close()
        return "recorded"
    return read_distribution(inner, 0)
