"""The source files that a class hangs on: its bases', and what those import, as far as that is not installed."""

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path

_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))


def source_digest(cls: type, *modules: str) -> str:
    """12 hexadecimal digits that change with any of the files; of a class without a file they are new each time.

    Args:
        cls: the class.
        modules: names of modules that count too.
    """
    for name in modules:
        importlib.import_module(name)
    files: set[Path] = set()
    for name in (*(base.__module__ for base in cls.__mro__ if base is not object), *modules):
        _follow(name, files)
    unknown = b"" if getattr(sys.modules.get(cls.__module__), "__file__", None) else os.urandom(16)
    return hashlib.sha256(unknown + b"".join(_content(path) for path in sorted(files))).hexdigest()[:12]


def _follow(name: str, files: set[Path], is_wanted: bool = True) -> None:
    module = sys.modules.get(name)
    path = Path(getattr(module, "__file__", None) or "").resolve()
    if path.suffix != ".py" or path in files or not (is_wanted or _is_edited(path)):
        return
    files.add(path)
    package = getattr(module, "__package__", None) or ""
    for imported in _imports(path, package):
        _follow(imported, files, is_wanted=False)


def _is_edited(path: Path) -> bool:
    return not any(path.is_relative_to(folder) for folder in _INSTALLED)


@lru_cache
def _imports(path: Path, package: str) -> tuple[str, ...]:
    found: list[str] = []
    # At the top of the module: what a function imports may be loaded or not.
    for node in ast.parse(_content(path)).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)


@lru_cache
def _content(path: Path) -> bytes:
    return path.read_bytes()
