"""Folders of arrays that every process maps into its memory: written once, and trusted only as they were written.

Next to the arrays lies a SHA-256 of each. A folder is flushed to the disk and renamed when it is whole, so that several
processes may build it at the same time; one that does not fit its digests - cut, overwritten, of a disk that lost power
- is built again. What a killed process left is removed by the next one that builds.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vllm_sim.trace.output import name_errors

_ABOUT = "about.json"
_TRIES = 3

Arrays = Mapping[str, NDArray[Any]]
Write = Callable[[Mapping[str, IO[bytes]]], None]


def load_arrays(folder: Path, kinds: Mapping[str, Any], write: Write, about: Mapping[str, str]) -> Arrays:
    """The arrays of a folder, read-only.

    Args:
        folder: Where they lie.
        kinds: Their types, by name.
        write: Fills a file for each where they are not there as they were written.
        about: Kept next to them, for readers of the folder.

    Raises:
        OSError: the disk is full, or does not give back what was written.
    """
    for _ in range(_TRIES):
        arrays = _map_whole(folder, kinds)
        if arrays is not None:
            return arrays
        _build(folder, kinds, write, about)
    raise OSError(f"{folder}: what is written there does not come back as it was")


def _map_whole(folder: Path, kinds: Mapping[str, Any]) -> Arrays | None:
    """The arrays, if all are there as they were written."""
    try:
        digests = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))["sha256"]
        arrays = {name: _map(folder / name, kind) for name, kind in kinds.items()}
        fits = all(_digest(array) == digests[name] for name, array in arrays.items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return arrays if fits else None


def _map(path: Path, kind: Any) -> NDArray[Any]:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r")


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.view(np.uint8).data).hexdigest()


def _build(folder: Path, kinds: Mapping[str, Any], write: Write, about: Mapping[str, str]) -> None:
    """Puts a new folder in the place of what is there, unless another process was faster."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    with _temporary_folder(folder) as temporary, name_errors(folder):
        with ExitStack() as stack:
            files = {name: stack.enter_context((temporary / name).open("wb")) for name in kinds}
            write(files)
            for file in files.values():
                _flush(file)
        digests = {name: _digest(_map(temporary / name, kind)) for name, kind in kinds.items()}
        with (temporary / _ABOUT).open("w", encoding="utf-8") as text:
            json.dump({**about, "sha256": digests}, text)
            _flush(text)
        if folder.exists() and _map_whole(folder, kinds) is None:
            # Moved first: a process that has it mapped, or builds it anew, is not disturbed.
            aside = tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.")
            folder.replace(aside)
            shutil.rmtree(aside, ignore_errors=True)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same bytes
                raise


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """A locked folder next to another; removed at the end if it is still there."""
    while True:
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        handle = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():  # else it was taken for abandoned before it was locked
            break
        os.close(handle)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    """Removes temporary folders that no process has locked."""
    for path in parent.glob(".*"):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(handle)
