"""The points of the study of hybrid models, by the TOML file."""

import tomllib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from vllm_sim.models.known import known_models

LISTS = ("memory", "layout", "retention", "match_unit", "block_size", "policy")
LAYOUTS = ("groups", "full")


class Point(NamedTuple):
    """One row of the study; see hybrids.toml."""

    experiment: str
    model: str
    traffic: str
    memory: str
    layout: str
    retention: str
    match_unit: int
    block_size: int
    policy: str

    @property
    def backend(self) -> str:
        """`fast` where it serves the point."""
        return "blockpool" if self.match_unit else "fast"


class Plan(NamedTuple):
    """What the file says."""

    points: list[Point]
    requests: int
    """The first ones of each trace."""


def read_plan(path: Path, quick: bool) -> Plan:
    """The plan of a file.

    Args:
        path: the TOML file.
        quick: whether only what its table `quick` names is kept.

    Raises:
        ValueError: a key or a value is not allowed.
    """
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    kept: dict[str, Any] = values["quick"] if quick else {}
    for name in values["models"]:
        if name not in known_models():
            raise ValueError(f"{path}: models has {name!r}; allowed: {', '.join(known_models())}")
    points = list(dict.fromkeys(_points(path, values, kept)))
    return Plan(points, kept.get("requests", values["requests"]))


def _points(path: Path, values: dict[str, Any], kept: dict[str, Any]) -> Iterator[Point]:
    models, traffic = (_keep(kept, name, values[name]) for name in ("models", "traffic"))
    for grid in values["grid"]:
        unknown = grid.keys() - {"experiment", *LISTS}
        if unknown:
            raise ValueError(f"{path}: a grid has {', '.join(sorted(unknown))}; allowed: {', '.join(LISTS)}")
        lists = [_keep(kept, name, grid.get(name, values["usual"][name])) for name in LISTS]
        for layout in lists[LISTS.index("layout")]:
            if layout not in LAYOUTS:
                raise ValueError(f"{path}: layout has {layout!r}; allowed: {', '.join(LAYOUTS)}")
        for model, mix, *rest in product(models, traffic, *lists):
            point = Point(grid["experiment"], model, mix, *rest)
            if (not point.match_unit or has_states(model)) and (point.retention == "default" or has_intervals(model)):
                yield point


def has_states(model: str) -> bool:
    """Whether layers of a model have states, which alone are found in parts of a block."""
    config = known_models()[model].config
    return any(name.startswith(("mamba", "linear", "ssm")) for name in config)


def has_intervals(model: str) -> bool:
    """Whether vLLM takes a retention interval: it refuses one where layers have neither windows nor states."""
    return has_states(model) or bool(known_models()[model].config.get("sliding_window"))


def _keep(kept: dict[str, Any], name: str, values: list[Any]) -> list[Any]:
    return [value for value in values if value in kept.get(name, values)] or values[:1]
