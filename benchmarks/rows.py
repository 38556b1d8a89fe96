"""The rows of results/bench.json: what `make bench` measured, a row for each, and the table of docs/results.md."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import msgspec

from vllm_sim.provenance import commit
from vllm_sim.trace.files import open_output
from vllm_sim.vllm_version import found_version

OUT = Path(__file__).parents[1] / "results" / "bench.json"


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One number, the bar that it has to keep, and what it was made of."""

    name: str
    """Of the measurement; a new one replaces the one of before."""
    what: str
    """What is measured, and against what, for a reader."""
    value: float
    unit: str
    """`times` for a ratio against a baseline of the same run."""
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None
    """A better bar that is not reached; docs/limits.md says why."""
    parts: dict[str, float]
    """What the value was made of, and what else the run saw; each name says its unit."""
    commit: str | None = None
    """Of the code."""
    load: float | None = None
    """Processes that ran or waited on the machine in the last minute, this one among them."""

    def holds(self) -> bool:
        """Whether the value keeps its bar."""
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def bar(self) -> str:
        """The bar in words."""
        bars = (("at least", self.at_least), ("at most", self.at_most))
        words = ", ".join(f"{words} {value:g}" for words, value in bars if value is not None)
        return words if self.aim is None else f"{words}, aim {self.aim:g}"


Measured = Callable[[Measurement], None]
"""The fixture that takes a measurement."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    cores: int | None
    machine: str
    python: str
    vllm: str | None


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """The file: rows of one machine, in the order in which they were first measured."""

    machine: Machine
    rows: list[Measurement]


def this_machine() -> Machine:
    """The machine, and the versions on which speeds depend."""
    return Machine(
        cores=os.cpu_count(), machine=platform.machine(), python=platform.python_version(), vllm=found_version()
    )


def read_bench(path: Path) -> Bench:
    """The rows that are there.

    Raises:
        ValueError: the file is not there, or is none that `make bench` wrote.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Bench)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run `make bench`, which writes it") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}; allowed: what `make bench` writes") from None


def keep(row: Measurement, path: Path = OUT) -> Measurement:
    """Writes a row in place of the one of its name; rows of another machine go. Returns it with commit and load."""
    row = msgspec.structs.replace(row, commit=commit(), load=round(os.getloadavg()[0], 1))
    machine = this_machine()
    bench = read_bench(path) if path.exists() else Bench(machine=machine, rows=[])
    rows = {found.name: found for found in bench.rows} if bench.machine == machine else {}
    rows[row.name] = row
    whole = msgspec.json.encode(Bench(machine=machine, rows=list(rows.values())))
    with open_output(path) as file:
        file.write(msgspec.json.format(whole, indent=1).decode() + "\n")
    return row


def table(bench: Bench) -> str:
    """The rows in Markdown, after a line about the machine."""
    machine = bench.machine
    commits = sorted({_short(row.commit) for row in bench.rows})
    loads = [row.load for row in bench.rows if row.load is not None]
    lines = [
        f"{machine.cores} cores ({machine.machine}), Python {machine.python}, vLLM {machine.vllm}; "
        f"load of the machine {min(loads):g} to {max(loads):g}; commit {', '.join(commits)}.",
        "",
        "| what | result | bar | parts |",
        "|---|---|---|---|",
    ]
    for row in bench.rows:
        parts = "; ".join(f"{name} {_number(value)}" for name, value in row.parts.items())
        failed = "" if row.holds() else f" (not kept, at load {row.load:g})"
        lines.append(f"| {row.what} | {_number(row.value)} {row.unit} | {row.bar()}{failed} | {parts} |")
    return "\n".join(lines)


def _short(commit: str | None) -> str:
    return "unknown" if commit is None else f"`{commit[:7]}{commit[40:]}`"


def _number(value: float) -> str:
    """Three digits that count, more before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
