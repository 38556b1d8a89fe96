"""Where a number comes from: a digest of the code that makes it, of files, and the versions and the commit that ran.

`fingerprint` reads the module of a function and every module that it imports, and theirs in turn, without importing
any. A row depends on the entries of a registry that it uses and on no other, so a registry is left out, and the caller
passes the entries that are used.

Read are the packages of what is passed, installed or not, and what is not installed, such as a policy's helper modules
in the working directory. Of vLLM the version counts, and of this package the plugin that vLLM loads when it is
imported. Other installed packages (numpy, numba, torch) and Python itself do not count.

What counts of a file: sources.py.
"""

import hashlib
import importlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib.machinery import PathFinder
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import vllm_sim
from vllm_sim.sources import FileFacts, keep_sources, read_source
from vllm_sim.vllm_version import found_version

_UPSTREAM = "vllm"
_PLUGIN = "engine.plugin"
"""What vLLM loads of this package when it is imported, by the package's entry points."""
_INSTALLED = ("site-packages", "dist-packages")

Maker = Callable[..., Any] | type | str
"""A function, a class, or `module:name` of either, which is not imported."""


class _Module(NamedTuple):
    """Where a module is; a folder without __init__.py has no file."""

    file: Path | None
    folders: tuple[str, ...]
    """Of a package."""


def fingerprint(*makers: Maker) -> str:
    """16 hexadecimal digits that change with the code that the makers reach, and with vLLM's version if they reach it.

    Args:
        makers: what makes a row, and the entries of registries that it uses. A class counts with its bases.

    The files are read once a process. Of a maker without a file, as in a notebook, the digits are new each time.
    """
    names = tuple(maker if isinstance(maker, str) else f"{maker.__module__}:{maker.__qualname__}" for maker in makers)
    roots = tuple(dict.fromkeys(name for maker in makers for name in _modules_of(maker)))
    files = tuple(_locate(name, None) for name in roots)
    if any(module is None or module.file is None for module in files):
        return os.urandom(8).hex()
    return _fingerprint(names, roots, files)


def reached(*makers: Maker) -> frozenset[str]:
    """Names of the modules that count for a fingerprint."""
    roots = [name for maker in makers for name in _modules_of(maker)]
    return frozenset(name for name, module in _follow(roots).items() if module and module.file)


@cache
def _fingerprint(names: tuple[str, ...], roots: tuple[str, ...], files: tuple[_Module | None, ...]) -> str:
    found = _follow(roots)
    parts = [*names, *([f"{_UPSTREAM} {found_version()}"] if _UPSTREAM in found else [])]
    for name, module in sorted(found.items()):
        if module and module.file:
            parts.append(f"{name} {_read(name, module).digest}")
    keep_sources()
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _modules_of(maker: Maker) -> list[str]:
    if isinstance(maker, str):
        return [maker.partition(":")[0]]
    bases = maker.__mro__ if isinstance(maker, type) else (maker,)
    names = [base.__module__ for base in bases]
    return [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names or name == "__main__"]


def _follow(roots: Iterable[str]) -> dict[str, _Module | None]:
    """All modules that these import, and where they are; None for what is no module, or none that is read."""
    left = list(roots)
    packages = {name.partition(".")[0] for name in left}
    found: dict[str, _Module | None] = {}
    while left:
        above: _Module | None = None
        for name in accumulate(left.pop().split("."), "{}.{}".format):
            if name not in found:
                if name == _UPSTREAM:
                    left.append(f"{vllm_sim.__name__}.{_PLUGIN}")
                is_read = above is not None or _is_read(name, packages)
                found[name] = module = _locate(name, above) if is_read else None
                if module and module.file:
                    left += _read(name, module).imports
            above = found[name]
            if above is None:
                break
    return found


def _is_read(package: str, packages: set[str]) -> bool:
    """Whether a top-level package counts with its source; `packages` are those of what makes the row."""
    if package in packages:
        return True
    if package == _UPSTREAM or package in sys.stdlib_module_names:
        return False
    module = _locate(package, None)
    places = [] if module is None else [*module.folders, *([str(module.file)] if module.file else [])]
    return bool(places) and not any(part in _INSTALLED for place in places for part in Path(place).parts)


def _locate(name: str, above: _Module | None) -> _Module | None:
    """Where a module is, without importing it; `above` is the package that holds it, where that is known."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        file, folders = getattr(loaded, "__file__", None), getattr(loaded, "__path__", ())
    else:
        parent = name.rpartition(".")[0]
        if parent and above is None:
            above = _locate(parent, None)
        try:
            folders = above.folders if above else ()
            spec = PathFinder.find_spec(name, folders) if parent else importlib.util.find_spec(name)
        except KeyError:  # a folder without __init__.py in a package that nobody has imported
            return None
        if spec is None:
            return None
        file, folders = spec.origin, spec.submodule_search_locations or ()
    is_source = file is not None and str(file).endswith(".py")
    if not is_source and not folders:
        return None
    return _Module(Path(file) if is_source and file else None, tuple(folders))


@cache
def _read(name: str, module: _Module) -> FileFacts:
    assert module.file is not None
    package, content = name if module.folders else name.rpartition(".")[0], module.file.read_bytes()
    return read_source(name, package, content)


def load_entry(entry: str) -> Any:
    """What an entry `module:name` of a registry names; its module is imported."""
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit() -> str | None:
    """The commit that this package lies in, with `-dirty` where sources (.py, .toml) of its repository differ from it.

    Results and figures do not count, which a run writes. None where the package is in no repository, as an installed
    one.
    """
    git = ["git", "-C", str(Path(vllm_sim.__file__).parent)]
    commands = (
        ("ls-files", "--error-unmatch", "__init__.py"),
        ("rev-parse", "HEAD"),
        ("status", "--porcelain", "--", ":(top)*.py", ":(top)*.toml"),
    )
    try:
        _, head, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
            for words in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}-dirty" if changes else head


def about(model: str | None, seconds: float, commit: str | None) -> dict[str, Any]:
    """What may differ between two runs that give the same rows: wall time, host, versions, commit.

    Args:
        model: the model's folder, as it was given; None without one.
        seconds: wall time.
        commit: as it was when the run began, and with it the code that ran.
    """
    return {
        "seconds": round(seconds, 3),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "vllm": found_version(),
        "vllm_sim": vllm_sim.__version__,
        "model": model,
        "commit": commit,
    }
