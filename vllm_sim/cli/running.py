"""What `vllm-sim replay` and `vllm-sim sweep` have in common: options, derived from the fields of RunConfig.

A field is an option of its own name, with its help, choices and default. A sweep takes a list where the field has a
plural. Three fields are written otherwise than they are kept: a capacity may be `unlimited`, a latency table is a file,
and attribution is switched off. `--plain-steps` is no part of a row, so its field says nothing of itself.
"""

import argparse
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from vllm_sim.cli.model import DEFAULT_MODEL, given_or_default
from vllm_sim.fleet.names import DEFAULT
from vllm_sim.replay.about import Field
from vllm_sim.replay.config import RunConfig, config_fields
from vllm_sim.vllm_version import installed_version

_OWN = ("latency_table", "attribution")
_OBJECTS = ("policy_params", "router_params", "engine_args")


def add_config_options(parser: argparse.ArgumentParser, backend: str, is_grid: bool) -> None:
    """Adds an option for each field of RunConfig.

    Args:
        parser: changed.
        backend: the default.
        is_grid: whether fields with a plural take a list.
    """
    cache, engine = parser.add_argument_group("cache"), parser.add_argument_group("engine only")
    for field in config_fields():
        if field.name in _OWN:
            continue
        group = cache if field.about.scope == "all" else engine
        default = backend if field.name == "backend" else _default(field.name)
        if is_grid and field.about.grid:
            _add_list(group, field, default)
        else:
            _add_option(group, field, default, is_grid)
    engine.add_argument("--latency-file", type=Path, metavar="FILE", help="for table: what vllm-sim calibrate wrote")
    engine.add_argument("--no-attribution", action="store_true", help="only what vllm says by itself; faster")
    engine.add_argument("--plain-steps", action="store_true", help="show vllm's scheduler every step; the same, slower")


def add_options(group: Any, names: Sequence[str]) -> None:
    """Adds an option for each of these fields of RunConfig, with its default."""
    for field in config_fields():
        if field.name in names:
            _add_option(group, field, _default(field.name), is_grid=False)


def _add_option(group: Any, field: Field, default: Any, is_grid: bool) -> None:
    if field.kind is bool:
        action: Any = argparse.BooleanOptionalAction if default else "store_true"
        group.add_argument(_flag(field.name), action=action, default=default, help=field.about.text)
        return
    shown = "" if default in (None, {}) else " (default: %(default)s)"
    shown = f" (default: {DEFAULT_MODEL} if it is there)" if field.name == "model" else shown
    group.add_argument(
        _flag(field.name),
        type=_reader(field, is_grid),
        default=default,
        metavar=field.about.metavar or None,
        choices=field.about.choices or None,
        help=field.about.text + shown,
    )


def config_from(options: argparse.Namespace, **chosen: Any) -> RunConfig:
    """The configuration that the options ask for.

    Args:
        options: of a parser that `add_config_options` has extended.
        chosen: fields that are set otherwise.

    Raises:
        ValueError: a value is out of range, or the latency file is none.
        VersionError: the backend needs vLLM, which is not installed or too old.
    """
    from vllm_sim.replay.latency import load_table

    if options.backend != "fast":
        installed_version()
    names = [field.name for field in config_fields() if field.name not in _OWN]
    values = {name: getattr(options, name) for name in names if name not in chosen} | chosen
    values["model"] = given_or_default(values["model"])
    table = options.latency_file
    return RunConfig(
        **values,
        latency_table=None if table is None else load_table(table),
        attribution=not options.no_attribution,
        plain_steps=options.plain_steps,
    )


def json_object(text: str) -> dict[str, Any]:
    """An argument that is a JSON object."""
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite; allowed: a number that is")
    return value


def quieten_vllm() -> None:
    """Only warnings, and those to stderr; to be called before vllm is imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _default(name: str) -> Any:
    place = RunConfig.__struct_fields__.index(name) - len(RunConfig.__struct_fields__)
    default = RunConfig.__struct_defaults__[place] if -place <= len(RunConfig.__struct_defaults__) else None
    return {} if name in _OBJECTS else default


def _reader(field: Field, is_grid: bool) -> Any:
    if field.name == "capacity_blocks":
        return _capacity
    if field.name in _OBJECTS:
        return json_object
    return next(kind for kind in (field.kind, *get_args(field.kind)) if kind in (int, float, str))


def _add_list(group: Any, field: Field, default: Any) -> None:
    """A list of values, under the plural and under the field's own name."""
    kind: Any = numbers if field.kind is int else texts
    if field.name == "kv_offloading_size":
        kind, default, text = _gibibytes, ["none"], f"{field.about.text}, or none"
    elif field.name == "capacity_blocks":
        default, text = (
            ["10%", "unlimited"],
            (
                "blocks (3000), tokens (48000tok, 48Ktok), a share of the working set (10%%), bytes of the model's "
                "cache (16GiB), unlimited, or all for LRU's whole curve"
            ),
        )
    else:
        default, text = [default or DEFAULT if field.name == "router" else default], field.about.text
    group.add_argument(
        *dict.fromkeys((f"--{field.about.grid}", _flag(field.name))),
        dest=field.about.grid.replace("-", "_"),
        type=kind,
        default=[None] if default == ["none"] else default,
        metavar=f"{field.about.metavar},{field.about.metavar}",
        help=f"{text}; a list (default: {','.join(map(str, default)).replace('%', '%%')})",
    )


def _capacity(text: str) -> int | None:
    if text == "unlimited":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of blocks; allowed: 1 or more, unlimited") from None


def texts(text: str) -> list[str]:
    """An argument that is a list, separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _gibibytes(text: str) -> list[float | None]:
    """An argument that is a list of sizes of CPU memory."""
    try:
        return [None if part == "none" else float(part) for part in texts(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of GiB, as in none,0.5,4") from None


def numbers(text: str) -> list[int]:
    """An argument that is a list of whole numbers."""
    try:
        return [int(part) for part in texts(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, as in 16,64") from None
