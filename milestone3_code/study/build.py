"""Gets what the mixes need and builds them."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from joblib import Parallel, delayed

from vllm_sim.workloads.build import build
from vllm_sim.workloads.config import read_workload

PLACES = ("path", "package", "folder")
"""Keys of a source that name what it reads."""
SEED_STEP = 1000
"""Between the seeds of one mix; the configurations' own are nearer to each other."""


def seeded(mix: str, place: int) -> str:
    """The name of a mix under one of its seeds; the first is the configuration's."""
    return f"{mix}-{place}" if place else mix


def fetch(commands: Path, top: Path, say: Callable[[str], None]) -> None:
    """Runs the command `get` of each source whose file or folder is missing.

    Args:
        commands: a configuration of a workload, whose sources say how to get their data.
        top: folder in which commands run; `python` and `.venv/bin/pip` in them are those of this interpreter's folder.
        say: called with each command.

    Raises:
        ValueError: a command failed or there is none, or what it should get is missing still.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    for name, source in tomllib.loads(commands.read_text(encoding="utf-8"))["sources"].items():
        found = next((source[key] for key in PLACES if key in source), None)
        if found is None or (commands.parent / found).exists():
            continue
        if "get" not in source:
            raise ValueError(f"{name}: no {found}, and no key get with a command that brings it, in {commands}")
        command = source["get"].replace(".venv/bin/pip ", "python -m pip ")
        say(f"{name}: {command}")
        code = subprocess.run(command, shell=True, cwd=top, env=os.environ | {"PATH": path}, check=False).returncode
        if code or not (commands.parent / found).exists():
            raise ValueError(f"{name}: no {found}, exit code {code} of: {command}")


def build_mixes(configs: Sequence[Path], out: Path, force: bool, say: Callable[[str], None], seeds: int = 1) -> None:
    """Writes NAME.jsonl for each NAME.toml whose trace is not there, and NAME-1.jsonl and so on of more seeds.

    Args:
        configs: configurations of workloads.
        out: folder of the traces.
        force: builds those that are there as well.
        say: called with what was done.
        seeds: how many of each configuration.

    Raises:
        ValueError: a configuration or a source cannot be used.
    """
    wanted = [
        (config, place, out / f"{seeded(config.stem, place)}.jsonl") for config in configs for place in range(seeds)
    ]
    missing = [job for job in wanted if force or not job[2].is_file()]
    for _, _, trace in wanted:
        if trace.is_file() and not force:
            say(f"{trace}: is there")
    out.mkdir(parents=True, exist_ok=True)
    jobs = 1 if len(missing) == 1 else -1
    for text in Parallel(n_jobs=jobs, return_as="generator")(delayed(_build_one)(*job) for job in missing):
        say(text)


def _build_one(config: Path, place: int, trace: Path) -> str:
    built = build(config, trace, read_workload(config).seed + SEED_STEP * place)
    return f"{trace}: {sum(source.requests for source in built):,} requests of {len(built)} workloads"
