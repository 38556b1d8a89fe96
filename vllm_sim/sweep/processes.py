"""Runs of a grid in processes: forks of this one, joblib's, or those of a Ray cluster.

Runs that share a trace and its blocks go to a process in batches, which reads both once; a fork has them already. An
error ends its batch and is no loss of what was computed: it comes with the rows, batches under way are finished, and no
more are begun.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from itertools import groupby
from multiprocessing import get_context
from threading import Thread
from typing import Any, NamedTuple

from vllm_sim.garbage import kept_out_of_searches
from vllm_sim.replay.rows import Row
from vllm_sim.vllm_version import VersionError

BATCHES = 4
"""For each process, if there are enough runs: the last ones end at about the same time."""
LARGEST = 100
"""Runs of a batch: what a kill may lose of each process."""

RowsOf = Callable[[Any], Sequence[Row]]


class Point(NamedTuple):
    """A run as a process needs it."""

    key: str
    values: Any
    """What rows are made from; its text names the run in an error."""
    group: tuple[Any, ...]
    """What it shares with others; groups run in this order."""


class Done(NamedTuple):
    """What a batch gave."""

    rows: list[tuple[str, Sequence[Row]]]
    """Of each run, by its key."""
    error: Exception | None
    """That ended the batch."""


def compute(
    points: Sequence[Point],
    rows_of: RowsOf,
    jobs: int,
    ray: str | None,
    compilers: Sequence[Callable[[], None]] = (),
    are_forks: bool = False,
) -> Iterator[Done]:
    """Rows as they are finished; of several batches in any order.

    Args:
        points: what is computed.
        rows_of: makes the rows of a point.
        jobs: processes, -1 for one a core.
        ray: address of a Ray cluster, in place of processes here.
        compilers: called first where several processes would compile the same code, each in one of them.
        are_forks: whether the processes here are forks of this one: they start at once, with what it has read. Not
            for code with threads of its own, such as torch's.

    Raises:
        ImportError: Ray is not installed.
    """
    points = sorted(points, key=lambda point: point.group)
    if ray is not None:
        return _on_ray(points, rows_of, ray)
    if jobs == 1 or len(points) <= 1:
        return _until_error(_batch([point], rows_of) for point in points)
    if are_forks and "torch" not in sys.modules:
        return _forked(points, rows_of, jobs, compilers)
    return _here(points, rows_of, jobs, compilers)


def _forked(
    points: Sequence[Point], rows_of: RowsOf, jobs: int, compilers: Sequence[Callable[[], None]]
) -> Iterator[Done]:
    workers, failed = min(_workers(jobs), len(points)), False
    if len(compilers) == 1:
        compilers[0]()  # here, so that every fork has it
        compilers = ()
    batches, parent = _batches(points, workers), os.getpid()
    with kept_out_of_searches(), ProcessPoolExecutor(workers, get_context("fork")) as pool:
        for compiling in [pool.submit(compiler) for compiler in compilers]:
            compiling.result()
        running: set[Future[Done]] = set()
        while True:
            while not failed and len(running) < workers and (batch := next(batches, None)) is not None:
                running.add(pool.submit(_batch, batch, rows_of, parent))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for one in finished:
                done = one.result()
                failed = failed or done.error is not None
                yield done


def _workers(jobs: int) -> int:
    """How many processes there are to be; -1: one a core that this one may use."""
    if jobs != -1:
        return jobs
    from joblib import cpu_count

    return int(cpu_count())


def _here(
    points: Sequence[Point], rows_of: RowsOf, jobs: int, compilers: Sequence[Callable[[], None]]
) -> Iterator[Done]:
    from joblib import Parallel, delayed

    workers, failed = _workers(jobs), False

    def left() -> Iterator[Any]:
        for batch in _batches(points, workers):
            if failed:
                return
            yield delayed(_batch)(batch, rows_of, os.getpid())

    Parallel(n_jobs=min(workers, max(1, len(compilers))))(delayed(compiler)() for compiler in compilers)
    parallel = Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)
    for done in parallel(left()):
        failed = failed or done.error is not None
        yield done


def _on_ray(points: Sequence[Point], rows_of: RowsOf, address: str) -> Iterator[Done]:
    """Each worker of a cluster keeps its process, and with it a trace, from batch to batch."""
    import ray

    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    try:
        workers, failed = max(1, int(ray.cluster_resources().get("CPU", 1))), False
        running: list[Any] = []
        start, batches = ray.remote(_batch).remote, _batches(points, workers)
        while True:
            while not failed and len(running) < workers and (batch := next(batches, None)) is not None:
                running.append(start(batch, rows_of))
            if not running:
                return
            (first,), running = ray.wait(running)
            done = ray.get(first)
            failed = failed or done.error is not None
            yield done
    finally:
        ray.shutdown()


def _until_error(results: Iterable[Done]) -> Iterator[Done]:
    for done in results:
        yield done
        if done.error is not None:
            return


def _batches(points: Sequence[Point], workers: int) -> Iterator[list[Point]]:
    most = max(1, min(LARGEST, len(points) // (BATCHES * workers)))
    for _, same in groupby(points, lambda point: point.group):
        found = list(same)
        for first in range(0, len(found), most):
            yield found[first : first + most]


def _batch(points: Sequence[Point], rows_of: RowsOf, parent: int | None = None) -> Done:
    """Computes the rows of points, up to the first that cannot be.

    Args:
        points: of one group.
        rows_of: makes the rows of a point.
        parent: the process that this one ends with.
    """
    if parent is not None:
        _end_with(parent)
    made: list[tuple[str, Sequence[Row]]] = []
    for point in points:
        try:
            made.append((point.key, rows_of(point.values)))
        except VersionError as error:  # it holds for all runs
            return Done(made, error)
        except Exception as error:
            found = ValueError(f"{point.values}: {one_line(error)}")
            found.__cause__ = error
            return Done(made, found)
    return Done(made, None)


def one_line(error: Exception) -> str:
    """An error in one line; one that is no ValueError has no message for users, so its kind and place are named too."""
    if isinstance(error, ValueError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


@cache
def _end_with(parent: int) -> None:
    """Ends this process when its parent has gone: joblib's would finish its batch first, and keep its traces."""

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=wait, daemon=True).start()
