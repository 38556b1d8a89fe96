"""What counts of a source file: a digest of its syntax tree, and the names that it imports.

An import counts wherever it stands: at the top, within a function, relative, or as text that names an attribute of the
same package ("vllm_sim.engine.platform.ReplayPlatform"). What stands under `if TYPE_CHECKING:` does not count, since it
never runs. Comments, docstrings and formatting change nothing. A dict whose values all name attributes of its own
package ("vllm_sim.eviction.policies.lru:Lru") is a registry, and left out.

What was found is kept by the file's bytes, under $XDG_CACHE_HOME/vllm-sim (else ~/.cache/vllm-sim), so that the next
process does not parse it again.
"""

import ast
import hashlib
import importlib.util
import os
import re
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

_ENTRY = re.compile(r"(\w+)(?:\.\w+)+:\w+")
_NAME = re.compile(r"(\w+)(?:\.\w+)+(?::\w+)?")
_NAMING = (ast.Import, ast.ImportFrom, ast.Constant)
_MOST_KEPT = 2000
"""Files of which is kept what counts; beyond that it begins anew."""
_UNREAD = ("ctx", "kind", "type_comment", "type_ignores")
"""Fields of a syntax tree that change nothing."""


class FileFacts(NamedTuple):
    """What counts of a file."""

    digest: str
    imports: frozenset[str]
    """Dotted names; the last ones may be attributes of a module."""


def read_source(name: str, package: str, content: bytes) -> FileFacts:
    """What counts of a file.

    Args:
        name: of the module.
        package: that its relative imports begin at.
        content: the file's bytes.
    """
    key = hashlib.sha256(f"{name} {package} ".encode() + content).hexdigest()
    if key not in _kept():
        _kept()[key] = _parse(name.partition(".")[0], package, content)
    return _kept()[key]


def _kept_file() -> Path:
    """Another reader, that is another version of this file or of Python, has another file."""
    reader = hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes()).hexdigest()
    return cache_root() / f"sources-{reader[:16]}.json"


@cache
def _kept() -> dict[str, FileFacts]:
    """What counts of files, by name and bytes; as the disk has it, and what was read since."""
    try:
        found = msgspec.json.decode(_kept_file().read_bytes(), type=dict[str, FileFacts])
    except (OSError, msgspec.DecodeError):
        found = {}
    _written[0] = len(found)
    return found if len(found) < _MOST_KEPT else {}


_written = [0]
"""How many of them the disk has."""


def keep_sources() -> None:
    """Puts on the disk what is not there; where it cannot be written, the next process reads the files again."""
    found = _kept()
    if len(found) == _written[0]:
        return
    _written[0] = len(found)
    with suppress(OSError):
        path = _kept_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(msgspec.json.encode(found))
        Path(file.name).replace(path)


def cache_root() -> Path:
    """The folder of all that is kept between runs; it may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-sim"


def _parse(top: str, package: str, content: bytes) -> FileFacts:
    tokens: list[str] = []
    imports: set[str] = set()
    left: list[Any] = [ast.parse(content)]
    while left:
        node: Any = left.pop()
        kind: Any = type(node)
        if kind is list:
            kept = [item for item in node if type(item) is not ast.Expr or not _is_text(item)]
            tokens.append(str(len(kept)))
            left += kept
        elif not isinstance(node, ast.AST):
            tokens.append(repr(node))
        elif isinstance(node, ast.Dict) and _is_registry(node, top):
            tokens.append("registry")
        else:
            tokens.append(kind.__name__)
            if kind in _NAMING:
                imports.update(_imports(node, top, package))
            is_idle = isinstance(node, ast.If) and _is_type_checking(node.test)
            left += [getattr(node, field) for field in _fields(kind) if not (is_idle and field == "body")]
    return FileFacts(hashlib.sha256("\n".join(tokens).encode()).hexdigest(), frozenset(imports))


def _imports(node: ast.AST, top: str, package: str) -> list[str]:
    """Dotted names that a node imports; a text is one if it names something of the same top-level package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(top):
        match = _NAME.fullmatch(node.value)
        return [node.value.replace(":", ".")] if match and match[1] == top else []
    return []


@cache
def _fields(kind: type[ast.AST]) -> tuple[str, ...]:
    return tuple(name for name in kind._fields if name not in _UNREAD)


def _is_text(node: ast.Expr) -> bool:
    return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_registry(node: ast.Dict, top: str) -> bool:
    texts = [value.value if isinstance(value, ast.Constant) else None for value in node.values]
    matches = [_ENTRY.fullmatch(text) if isinstance(text, str) else None for text in texts]
    return bool(matches) and all(match and match[1] == top for match in matches)


def _is_type_checking(test: ast.AST) -> bool:
    return (test.id if isinstance(test, ast.Name) else getattr(test, "attr", None)) == "TYPE_CHECKING"
