"""What sets rows apart in plots, derived from the fields of their types: `About.plot` says what plots do with each.

A row of a study has fields of its own besides those of a run. `StudyFields` declares the ones in which its rows differ
on purpose; a field that is missing there would be averaged over.
"""

import json
from typing import Annotated, Any

import msgspec

from vllm_sim.replay.about import About, fields_of
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.rows import Row


class StudyFields(msgspec.Struct, frozen=True, kw_only=True):
    """What a study varies besides the configuration of a run."""

    experiment: Annotated[str | None, About("the part of a study")] = None
    mix: Annotated[str | None, About("traffic of several workloads, by name")] = None
    traffic: Annotated[str | None, About("the mix that a model serves")] = None
    workload: Annotated[str | None, About("one that runs alone; of study one, what is said once or in turns")] = None
    part: Annotated[str | None, About("of a trace: whole, first, second")] = None
    quick: Annotated[bool, About("a quick run, no result")] = False
    mix_seed: Annotated[int, About("which draw of a mix", plot="seed")] = 0
    arrival_seed: Annotated[int, About("which draw of the arrivals", plot="seed")] = 0
    capacity: Annotated[str | None, About("as the study says it", plot="axis")] = None
    capacity_share: Annotated[float | None, About("of the working set", plot="axis")] = None
    memory: Annotated[str | None, About("for blocks", "bytes", plot="axis")] = None
    system_prompt: Annotated[bool, About("whether each conversation begins with the same one")] = False
    sessions_per_s: Annotated[float | None, About("that begin", "sessions/s")] = None
    think_s: Annotated[float | None, About("between an answer and the next turn, the mean", "s")] = None
    load: Annotated[float | None, About("times the mix's own sessions a second")] = None
    tenants: Annotated[str | None, About("how sessions are dealt to tenants")] = None
    tags: Annotated[str | None, About("whether requests name their workload")] = None
    variant: Annotated[str | None, About("what of a policy is left out or scaled")] = None
    kind: Annotated[str | None, About("what disturbs the traffic")] = None
    delay_ms: Annotated[int | None, About("of a router's knowledge", "ms")] = None
    gpu: Annotated[str | None, About("share of the working set in GPU memory")] = None
    cpu: Annotated[str | None, About("share of the working set in CPU memory")] = None
    gbps: Annotated[str | None, About("between them", "GB/s")] = None
    bound: Annotated[bool, About("both memories as one")] = False
    layout: Annotated[str | None, About("what a model's layers keep")] = None
    retention: Annotated[str | None, About("tokens between the states that are kept", "tokens")] = None
    match_unit: Annotated[int | None, About("of a hit", "tokens")] = None
    said: Annotated[str | None, About("what clients say of the future")] = None
    share: Annotated[float | None, About("of the requests that say it")] = None
    noise: Annotated[float | None, About("of the times that they say")] = None
    lies: Annotated[float | None, About("share of what they say that is wrong")] = None


FIELDS = (*fields_of(StudyFields), *fields_of(RunConfig))
SEEDS = tuple(field.name for field in FIELDS if field.about.plot == "seed")
"""Fields over which plots show the mean."""
_APART = tuple(field.name for field in FIELDS if field.about.plot == "apart")


def conditions(row: Row) -> dict[str, Any]:
    """What sets a row apart from others that must not be compared with it in one plot, as far as it is set."""
    values = {name: row[name] for name in _APART if row.get(name) not in (None, False)}
    if values.get("latency_model") != "roofline":
        values.pop("device", None)
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}


def seeds(row: Row) -> tuple[int | None, ...]:
    """The seeds of a row, in the order of SEEDS."""
    return tuple(row.get(name) for name in SEEDS)


def label(row: Row) -> str:
    """The line that a row is a point of: its policy, with the parameters that it was given."""
    params = row.get("policy_params") or {}
    shown = ", ".join(f"{key}={value}" for key, value in params.items())
    return f"{row['policy']} ({shown})" if shown else row["policy"]
