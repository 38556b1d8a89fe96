"""Fits the latency model `table` to steps that a real vLLM timed.

Source of the timings: `vllm serve ... --enable-logging-iteration-details --no-async-scheduling` (vLLM 0.32,
v1/engine/core.py capture_iteration_details and v1/metrics/loggers.py _log_iteration_details, read), which logs for each
step the requests and tokens that prefill and decode, and how long the engine waited for the step's result. On a CPU add
`--distributed-executor-backend mp`: with the executor in the engine's own process that wait begins when the model has
already run, and what is logged is the time of sampling alone. Or a file NAME.json of `vllm bench serve`, which knows a
step only as its tokens reach a client (bench_steps.py). Or the metrics of a server under load, which know steps only on
average (metrics_steps.py).

Fit: non-negative least squares of the four terms of latency.LatencyTable, each step weighted by 1 / its time (squares
of errors divided by the time), so that long prefills do not drown the decodes. Every fifth step is left out of the fit
and is what the errors are of. Not modelled: the length of contexts, which the log does not tell.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_sim.provenance import file_sha256
from vllm_sim.replay.bench_steps import TimedStep, bench_steps
from vllm_sim.replay.latency import LatencyTable
from vllm_sim.replay.metrics_steps import metrics_steps
from vllm_sim.trace.files import iter_lines, open_output

_MARK = "Iteration("
_LINE = re.compile(
    r"Iteration\(\d+\): (\d+) context requests, (\d+) context tokens, (\d+) generation requests, "
    r"(\d+) generation tokens, iteration elapsed time: (\d+\.\d+) ms( \(dummy\))?,"
)
_HELD_OUT = 5
_FEWEST_STEPS = 20


def iter_steps(path: Path) -> Iterator[TimedStep]:
    """The steps of a log, without dummy ones and those of no measurable time; other lines are passed over.

    Raises:
        ValueError: a line of a step that cannot be read, with its number.
    """
    for number, line in iter_lines(path):
        if _MARK not in line:
            continue
        found = _LINE.search(line)
        if found is None:
            raise ValueError(f"{path}, line {number}: not a step as vLLM 0.32 logs it: {line.strip()[-120:]!r}")
        *counts, ms, dummy = found.groups()
        prefill, tokens, decode, _ = map(int, counts)
        if not dummy and float(ms) > 0:
            yield TimedStep(prefill, tokens, decode, float(ms))


def fit(steps: list[TimedStep]) -> LatencyTable:
    """The table of least weighted squares whose terms are not negative.

    Every set of terms is solved freely, and the best solution without a negative term is the answer: with four terms
    these are fifteen sets.
    """
    values = np.array(steps)
    weights = 1 / np.sqrt(values[:, 3])
    left, right = _terms(values) * weights[:, None], values[:, 3] * weights
    best, best_error = np.zeros(4), float("inf")
    for size in range(1, 5):
        for chosen in map(list, itertools.combinations(range(4), size)):
            solution = np.linalg.lstsq(left[:, chosen], right, rcond=None)[0]
            error = float(np.sum((left[:, chosen] @ solution - right) ** 2))
            if (solution >= 0).all() and error < best_error:
                best, best_error = np.zeros(4), error
                best[chosen] = solution
    return LatencyTable(*(float(value) for value in best))


def _terms(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the terms of a table are multiplied with; [steps, 4]."""
    return np.column_stack([np.ones(len(values)), values[:, :3]])


def calibrate(log: Path, out: Path) -> dict[str, Any]:
    """Fits a table to a log and writes it.

    Args:
        log: What a vLLM logged, plain or packed; other lines in it do not matter. Or NAME.json of `vllm bench serve`.
        out: A JSON file: the terms in milliseconds, the number of steps, and the errors on the steps left out.

    Returns:
        What was written.

    Raises:
        ValueError: a step cannot be read, or there are too few.
    """
    steps = list(bench_steps(log) if log.suffix == ".json" else iter_steps(log))
    if len(steps) < _FEWEST_STEPS:
        raise ValueError(
            f"{log} has {len(steps)} timed steps; allowed: {_FEWEST_STEPS} or more "
            "(vllm serve --enable-logging-iteration-details --no-async-scheduling, or vllm bench serve --save-detailed)"
        )
    return _write(steps, {"log_sha256": file_sha256(log)}, out)


def calibrate_by_metrics(
    url: str,
    out: Path,
    seconds: float,
    every_s: float = 1.0,
    on_reading: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Fits a table to the metrics of a server and writes it.

    Args:
        url: http://HOST:PORT/metrics.
        out: as for `calibrate`; "steps" are the windows between readings there.
        seconds: how long it is read.
        every_s: seconds between two readings.
        on_reading: Called with the numbers of done and of all readings.

    Returns:
        What was written.

    Raises:
        ValueError: the address has no metrics of vLLM, or too few windows have steps.
    """
    steps = list(metrics_steps(url, seconds, every_s, on_reading))
    if len(steps) < _FEWEST_STEPS:
        raise ValueError(
            f"{url}: {len(steps)} windows of {every_s:g} s have steps that decode; allowed: {_FEWEST_STEPS} or more "
            "(load the server, or read it for longer)"
        )
    return _write(steps, {"metrics_seconds": seconds}, out)


def _write(steps: list[TimedStep], source: dict[str, Any], out: Path) -> dict[str, Any]:
    table = fit([step for place, step in enumerate(steps) if place % _HELD_OUT])
    result = asdict(table) | {"steps": len(steps)} | source
    result["held_out"] = errors(table, steps[::_HELD_OUT])
    with open_output(out) as file:
        file.write(json.dumps(result, indent=2) + "\n")
    return result


def errors(table: LatencyTable, steps: list[TimedStep]) -> dict[str, float]:
    """How far the table is from steps: relative errors of single ones, and predicted over measured time in all."""
    values = np.array(steps)
    predicted = _terms(values) @ np.array(list(asdict(table).values()))
    relative = np.abs(predicted - values[:, 3]) / values[:, 3]
    return {
        "steps": len(steps),
        "relative_error_p50": round(float(np.percentile(relative, 50)), 4),
        "relative_error_p90": round(float(np.percentile(relative, 90)), 4),
        "predicted_over_measured": round(float(predicted.sum() / values[:, 3].sum()), 4),
    }
