"""One writer at a time for a file of rows, by a lock file next to it, which goes when the run ends.

A killed run leaves its lock file and no lock: the next run takes it, and removes it in the end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Holds the lock of a file, whose folder is made if it is not there.

    Raises:
        ValueError: another run holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_file = path.with_name(f"{path.name}.lock")
    lock = FileLock(lock_file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{path} is being written by another run; allowed: one at a time") from None
    try:
        yield
    finally:
        lock_file.unlink(missing_ok=True)  # filelock gives no lock on a file that has gone meanwhile
        lock.release()
