"""What the commands that run a study share: their options, and how they end. Imports no vLLM."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from milestone3_code.study.study import Study
from vllm_sim.terminal import exit_code, progress_bar

ROOT = Path(__file__).resolve().parents[2]
Progress = Callable[[int, int], None]


def study_parser(doc: str | None, plan: str, before: str, after: str) -> argparse.ArgumentParser:
    """The options of a command.

    Args:
        doc: what it does.
        plan: its TOML file in milestone3_code.
        before: the command before it.
        after: the next one.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # before vllm is imported
    end = f"the step before is {before}, the next one {after}"
    parser = argparse.ArgumentParser(description=doc, epilog=end)
    here = ROOT / "milestone3_code" / plan
    parser.add_argument("--plan", type=Path, default=here, help=f"default: milestone3_code/{plan}")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "mixes", help="of the mixes; default: data/mixes")
    parser.add_argument("--model", default=str(ROOT / "exported_models" / "Llama-3.2-1B-Instruct"))
    parser.add_argument("--out", type=Path, help="folder of the rows (default: results; data/quick/results if quick)")
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one a core)")
    parser.add_argument("--quick", action="store_true", help="a few points, with rows that are marked as quick")
    parser.set_defaults(hash_trace=[])  # of a study that takes none
    return parser


def add_part(parser: argparse.ArgumentParser) -> None:
    """The option of a study that has points of the engine and of caches."""
    parser.add_argument("--part", choices=("cache", "engine", "all"), default="all", help="default: all")


def add_hash_trace(parser: argparse.ArgumentParser) -> None:
    """The option of a study that takes traces by their paths."""
    parser.add_argument("--hash-trace", type=Path, action="append", default=[], metavar="PATH", help="runs it as well")


def parts_of(options: argparse.Namespace) -> tuple[str, ...]:
    """What is to be run: the engine's points first."""
    return ("engine", "cache") if options.part == "all" else (options.part,)


def top_of(options: argparse.Namespace) -> Path:
    """The folder above the results, where none is given."""
    return ROOT / "data" / "quick" if options.quick else ROOT


def study_of(options: argparse.Namespace, mixes: tuple[str, ...]) -> Study:
    """Where a study of mixes reads and writes."""
    return Study(
        configs=options.plan.parent / "mixes",
        data=options.data,
        model=options.model,
        results=options.out or top_of(options) / "results",
        mixes=mixes,
        sharegpt=ROOT / "data" / "sharegpt" / "source.json",
        quick=options.quick,
        hash_traces=tuple(options.hash_trace),
    )


def run_command(work: Callable[[Progress], Any]) -> int:
    """Runs a study with a progress bar; returns the exit code, 1 after an error in one line."""

    def shown() -> None:
        with progress_bar("points") as progress:
            work(progress)

    return exit_code(shown)


def say(text: str) -> None:
    """A line on what happens."""
    print(text, file=sys.stderr)
