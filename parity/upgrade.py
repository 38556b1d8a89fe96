"""`make upgrade VLLM=VERSION`: what of this project holds on another vLLM; ends with 1 where something does not.

An environment with that version, without kernels, is built next to the project's own, which has the pinned version and
runs this. Compared: what the version requires, the contacts (what is changed, hooks), every step of the simulator and
the hits of replays with those on the pinned version, the stored rows of hybrid models, and upstream's own tests of that
version. No model is executed: that is `make parity`, for which a wheel of that version with CPU kernels is needed.

usage: python -m parity.upgrade --vllm VERSION [--keep DIR] [CHECK...]   CHECK: contacts, steps, hits, models, upstream
Each check goes to results/upgrade-VERSION.json when it ends; a check that is not named stays there as it was.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from parity import canary, upgrade_replays, upstream_tests
from parity.model import make_models
from parity.results import RESULTS, update
from parity.upstream_tests import PINNED, ROOT, Place

CHECKS = ("contacts", "steps", "hits", "models", "upstream")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    section: str
    name: str
    holds: bool
    found: str
    """What was found; where it differs from the pinned version, how."""


def build(version: str) -> Path:
    """The interpreter of an environment with a version, built where it is not there."""
    if version == PINNED:
        return Path(sys.executable)
    folder = ROOT / f".venv-{version}"
    subprocess.run([ROOT / "vllm" / "install.sh", folder], env=os.environ | {"VLLM": version}, check=True)
    return folder / "bin" / "python"


def probe(python: Path) -> dict[str, Any]:
    """What parity.contacts finds with an interpreter."""
    command = [python, "-m", "parity.contacts"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare_contacts(pinned: dict[str, Any], other: dict[str, Any]) -> Iterator[Finding]:
    """The contacts of a version, with those of the pinned one."""
    yield Finding("requirements", "without kernels", not other["unmet"], "; ".join(other["unmet"]) or "all met")
    for target, wrong in other["changes"].items():
        yield Finding("change", target, wrong is None, wrong or "is there")
    for path, known in pinned["hooks"].items():
        name = path.partition(":")[2]
        yield from _compare_hooks(name, known, other["hooks"][path])
        if abstract := other["abstract"][path]:
            yield Finding("hook", name, False, f"abstract upstream, and not here: {', '.join(abstract)}")
    for path, names in pinned["public"].items():
        new = sorted({*other["public"][path]} - {*names})
        gone = sorted({*names} - {*other["public"][path]})
        if new or gone:
            lists = [f"{what}: {', '.join(some)}" for what, some in (("new", new), ("gone", gone)) if some]
            yield Finding("new upstream", path.partition(":")[2], True, "; ".join(lists))


def _compare_hooks(ours: str, known: dict[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    same = 0
    for name, (before, _) in known.items():
        now, refused = found.get(name, (None, None))
        if now is None:
            yield Finding("hook", f"{ours}.{name}", False, "is not there upstream any more: nothing calls it")
        elif refused:
            yield Finding(
                "hook", f"{ours}.{name}", False, f"upstream: {now}, was {before}; ours does not take {refused}"
            )
        elif now != before:
            yield Finding("hook", f"{ours}.{name}", True, f"upstream: {now}, was {before}; ours takes both")
        else:
            same += 1
    yield Finding("hook", f"{ours}, the rest", True, f"{same} with upstream's signature as it was")
    for name in sorted({*found} - {*known}):
        yield Finding("hook", f"{ours}.{name}", False, "is a name of ours, and now upstream's too")


def compare_upstream(runs: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Upstream's own tests: the same ones must pass in each way."""
    for way, row in runs.items():
        differing = row["differences"]
        text = f"{row['passed']} passed, {row['failed']} failed, {row['refused']} refused; pools: {row['pools']}"
        holds = bool(runs["plain"]["passed"]) and not differing
        yield Finding("upstream's tests", way, holds, "; ".join([text, *differing]))


def attempt(section: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check; where it cannot be made, a single finding with the reason."""
    try:
        return list(check())
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or str(error)).strip().splitlines()
    except SystemExit as error:  # a side of the comparison that failed
        lines = str(error).strip().splitlines()
    return [Finding(section, "cannot be looked at", False, lines[-1])]


def print_table(version: str, findings: Iterable[Finding]) -> None:
    table = Table(title=f"vLLM {version} without kernels, against {PINNED}")
    for name in ("what", "where", "holds", "found"):
        table.add_column(name, overflow="fold")
    for one in findings:
        table.add_row(one.section, one.name, "yes" if one.holds else "NO", one.found)
    Console(width=170, markup=False, highlight=False).print(table)


def record(version: str, check: str, findings: list[Finding]) -> None:
    """Puts the findings of a check into the version's results; `holds` is null until all checks are there."""
    path = RESULTS / f"upgrade-{version}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["checks"] if path.exists() else {}
    checks = known | {check: [asdict(one) for one in findings]}
    holds = all(one["holds"] for rows in checks.values() for one in rows) if {*checks} == {*CHECKS} else None
    update(path.stem, {"vllm": version, "pinned": PINNED, "kernels": False, "holds": holds, "checks": checks})


def look(version: str, folder: Path, wanted: Iterable[str]) -> list[Finding]:
    """The findings of the wanted checks on a version, which are recorded too."""
    place = Place(build(version), ROOT / "data" / "upgrade" / version, version)
    pythons = {"pinned": Path(sys.executable), "other": place.python}
    models = make_models(folder / "models", ["llama"])

    def contacts() -> Iterator[Finding]:
        return compare_contacts(*(probe(python) for python in pythons.values()))

    def steps() -> Iterator[Finding]:
        return (Finding("steps", *line) for line in upgrade_replays.compare_steps(pythons, folder, models))

    def hits() -> Iterator[Finding]:
        return (
            Finding("hits", *line)
            for line in upgrade_replays.compare_hits(pythons, folder, str(Path(models) / "llama"))
        )

    def hybrids() -> Iterator[Finding]:
        for name, wrong in canary.check(place.python, folder / "canary"):
            yield Finding("models", name, not wrong, "; ".join(wrong) or "the stored row came again")

    def upstream() -> Iterator[Finding]:
        return compare_upstream(upstream_tests.run_all(place))

    findings = []
    for name, check in zip(CHECKS, (contacts, steps, hits, hybrids, upstream), strict=True):
        if name in wanted:
            found = attempt(name, check)
            record(version, name, found)
            findings += found
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m parity.upgrade", description="What of this project holds on another version of vLLM."
    )
    parser.add_argument("--vllm", required=True, metavar="VERSION")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)} (default: all)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the logs and traces here")
    options = parser.parse_args()
    for check in options.checks:
        if check not in CHECKS:
            parser.error(f"no check is named {check!r}; allowed: {', '.join(CHECKS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        findings = look(options.vllm, folder, options.checks or CHECKS)
    print_table(options.vllm, findings)
    holds = all(one.holds for one in findings)
    print(f"vLLM {options.vllm}: {'all of it holds' if holds else 'NOT all of it holds'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
