"""The searching mode of `make parity`: cases drawn at random, each on all sides, compared step for step.

A case that differs leaves a file that repeats it, and the others go on. The cases are run in batches, one process a
batch and environment, two batches at once.
"""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from parity import checks
from parity.compare import chunks_inside_output, copied_blocks, counts, differences
from parity.drawing import Drawn, draw
from parity.results import update
from parity.sides import REAL_PYTHON, SIMULATOR_PYTHON, real_job, simulated_job, try_side
from parity.workload import Case

LANES = 2
BATCH, SABOTAGED_BATCH = 25, 5
"""Cases of a process."""
SABOTAGED = "EagerExecutor"
INSIDE = "resumed_chunks_inside_output"


class Outcome(NamedTuple):
    """What came of a case."""

    drawn: Drawn
    seen: dict[str, int]
    """What happened on the real side."""
    wrong: list[str]
    """What differs."""
    versions: dict[str, str]


def search(folder: Path, models: str, count: int, seed: int, is_sabotaged: bool, has_tier: bool = False) -> int:
    """Runs the first `count` cases of a seed and records what came of them; returns the exit code.

    With `has_tier` every case has CPU memory, which else some have.

    Sabotaged, the simulator has an executor that is wrong on purpose: it is run until the first batch that finds it.
    """
    found: list[Outcome] = []
    size = SABOTAGED_BATCH if is_sabotaged else min(BATCH, -(-count // LANES))
    drawn = [draw(seed, number, has_tier) for number in range(1, count + 1)]
    batches = [drawn[start : start + size] for start in range(0, count, size)]
    rounds = [[batch] for batch in batches] if is_sabotaged else [batches]
    for together in rounds:
        with ThreadPoolExecutor(LANES) as pool:
            for outcomes in pool.map(lambda batch: _run_batch(folder, models, batch, is_sabotaged), together):
                found += outcomes
        if is_sabotaged and any(map(is_found, found)):
            break
    if is_sabotaged:
        return _record_sabotage(found, seed)
    row = summary(found, seed)
    update("parity", {"search_tier" if has_tier else "search": row})
    for name in ("configurations", "pressed", "steps", INSIDE, "differences"):
        checks.console.print(f"search: {row[name]:,} {name.replace('_', ' ')}")
    return 1 if row["differences"] else 0


def repeat(folder: Path, models: str, file: Path) -> int:
    """Runs the case of a file that a search has left; returns the exit code."""
    values = json.loads(file.read_text(encoding="utf-8"))
    case = Case.read(values["case"])
    (outcome,) = _run_batch(folder, models, [Drawn(values["number"], values["is_tight"], case)], is_sabotaged=False)
    checks.console.print("parity: equal" if not outcome.wrong else f"parity: {len(outcome.wrong)} differences")
    return 1 if outcome.wrong else 0


def _run_batch(folder: Path, models: str, batch: Sequence[Drawn], is_sabotaged: bool) -> list[Outcome]:
    """Runs cases on the real side, then in the simulator and, but for the sabotaged, in the driver."""
    if is_sabotaged:
        batch = [one._replace(case=replace(one.case, executor=SABOTAGED)) for one in batch]
    first = batch[0].case.name
    try_side(REAL_PYTHON, "real", folder, models, [real_job(one.case) for one in batch], folder / f"real-{first}.log")
    made = [one.case for one in batch if (folder / f"{one.case.name}.jsonl").exists()]
    jobs = [simulated_job(folder, case, side) for case in made for side in _simulated_sides(case)]
    if jobs:
        try_side(SIMULATOR_PYTHON, "simulator", folder, models, jobs, folder / f"simulator-{first}.log")
    outcomes = [compare(folder, one) for one in batch]
    for outcome in outcomes:
        tell(outcome)
    return outcomes


def _simulated_sides(case: Case) -> tuple[str, ...]:
    return ("simulator",) if case.executor == SABOTAGED else ("simulator", "driver")


def compare(folder: Path, drawn: Drawn) -> Outcome:
    """Compares the logs of a case; a side that has none, or that ended in an error, differs."""
    case, wrong, logs = drawn.case, [], {}
    for side in ("real", *_simulated_sides(case)):
        path = folder / f"{case.name}.{side}.json"
        if not path.exists():
            wrong.append(f"{side}: it did not start, or did not end; its log is in the folder of --keep")
            continue
        logs[side] = checks.read(folder, case, side)
        if logs[side]["error"]:
            wrong.append(f"{side}: {logs[side]['error']}")
    real = logs.pop("real", None)
    if real is None:
        return Outcome(drawn, {}, wrong, {})
    for side, log in logs.items():
        wrong += [f"{side}: {line}" for line in differences(real["steps"], log["steps"])]
    if "simulator" in logs:
        wrong += checks.check_facts(case, real["facts"], logs["simulator"]["facts"])
    seen = counts(real["steps"]) | copied_blocks(real["steps"]) | {INSIDE: _inside(folder, case, real["steps"])}
    return Outcome(drawn, seen, wrong, {name: real["facts"][name] for name in ("vllm", "torch")})


def _inside(folder: Path, case: Case, steps: list[dict[str, Any]]) -> int:
    path = folder / f"{case.name}.jsonl"
    if not path.exists():
        return 0
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return chunks_inside_output(steps, {str(row["id"]): len(row["prompt_token_ids"]) for row in rows})


def tell(outcome: Outcome) -> None:
    """Prints a case, and writes the file that repeats it if it differs."""
    number, is_tight, case = outcome.drawn
    seen = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in outcome.seen.items() if count)
    verdict = "DIFFERS" if outcome.wrong else "equal"
    checks.console.print(
        f"{number:4} {case.name} block {case.block_size}{' tight' if is_tight else ''}: {seen}: {verdict}"
    )
    for line in outcome.wrong:
        checks.console.print(f"     {line}", markup=False)
    if not outcome.wrong or case.executor == SABOTAGED:
        return
    values = {"number": number, "is_tight": is_tight, "case": asdict(case), "differences": outcome.wrong}
    path = Path(f"parity-{case.name}.json")
    path.write_text(json.dumps(values | outcome.versions, indent=1) + "\n", encoding="utf-8")
    checks.console.print(f"     again: python -m parity --repeat {path}", markup=False)


def summary(found: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """What results/parity.json says of a search: what was drawn, what happened, how many cases differ.

    A case is pressed where blocks were evicted and requests preempted; `tight_not_pressed` counts those drawn for it
    in which one of both did not happen.
    """
    sums: Counter[str] = Counter()
    drawn: dict[str, Counter[str]] = {name: Counter() for name in ("model", "policy", "block_size", "async_scheduling")}
    for outcome in found:
        sums.update(outcome.seen)
        for name, counter in drawn.items():
            counter[str(getattr(outcome.drawn.case, name))] += 1
    pressed = [bool(one.seen.get("evictions") and one.seen.get("preemptions")) for one in found]
    row = {
        "seed": seed,
        "configurations": len(found),
        "pressed": sum(pressed),
        "tight": sum(one.drawn.is_tight for one in found),
        "tight_not_pressed": sum(one.drawn.is_tight and not is_so for one, is_so in zip(found, pressed, strict=True)),
        "with_tier": sum(one.drawn.case.tier is not None for one in found),
        f"with_{INSIDE}": sum(one.seen.get(INSIDE, 0) > 0 for one in found),
        "drawn": {name: dict(sorted(counter.items())) for name, counter in drawn.items()},
    }
    return row | dict(sums) | {"differences": sum(bool(one.wrong) for one in found)} | found[0].versions


def is_found(outcome: Outcome) -> bool:
    """Whether a step of a case differs in the simulator; a side that did not run has found nothing."""
    return any(line.startswith("simulator: step ") for line in outcome.wrong)


def _record_sabotage(found: Sequence[Outcome], seed: int) -> int:
    """Writes where a search has found the executor that is wrong on purpose; returns the exit code."""
    first = next((one.drawn.number for one in found if is_found(one)), None)
    update("parity", {"search_sabotage": {"wrong": SABOTAGED, "seed": seed, "found_in_configuration": first}})
    checks.console.print(f"wrong on purpose ({SABOTAGED}): " + (f"found in {first}" if first else "NOT found"))
    return 0 if first else 1
