"""No module of vllm_sim.engine changes what is vLLM's on its own: contact.py does, by the rows of compat.py.

The syntax trees are read. An attribute may be assigned to `self`, and to objects whose class is known to be of vllm_sim
by an annotation, a constructor or the class of `self`; what cannot be shown to be ours counts as vLLM's.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vllm_sim
from vllm_sim.engine.contact import first_of
from vllm_sim.vllm_version import VersionError

PACKAGE = Path(vllm_sim.__file__).parent
ALLOWED = {"contact.py"}
"""It checks each target before it changes it, and it is what the rows of compat.py are made of."""
CONTAINERS = {"None", "dict", "list", "tuple", "set", "deque", "str", "int", "float", "bool", "Any", "Sequence"}
MUTATORS = {"update", "setdefault", "append", "extend", "insert", "add", "pop", "remove", "clear", "discard", "popitem"}
OURS = {
    node.name
    for path in PACKAGE.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.ClassDef)
}


class Module:
    """A module's syntax tree, and which of its expressions are objects of ours."""

    def __init__(self, text: str):
        self.tree = ast.parse(text)
        self.imported = {
            alias.asname or alias.name: node.module or ""
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        self.imported |= {
            alias.asname or alias.name.split(".")[0]: alias.name
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        self.classes = {node.name for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)}
        self.attributes: dict[str, list[tuple[ast.expr, bool]]] = {}
        for node in ast.walk(self.tree):
            for target, value in _pairs(node):
                self.attributes.setdefault(ast.unparse(target), []).append((value, isinstance(node, ast.AnnAssign)))

    def is_ours(self, expression: ast.expr, function: ast.AST) -> bool:
        """Whether an object in a function is known to be of a class of vllm_sim."""
        match expression:
            case ast.Call(func=ast.Name(id=name)):
                return self._is_our_class(name)
            case ast.Call(func=ast.Attribute(value=owner, attr="pop" | "get" | "setdefault")):
                return self.is_ours(owner, function)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=method)):
                return any(
                    self._is_our_type(node.returns)
                    for node in ast.walk(self.tree)
                    if isinstance(node, ast.FunctionDef) and node.name == method
                )
            case ast.Subscript(value=owner):
                return self.is_ours(owner, function)
            case ast.Attribute(value=ast.Name(id="self")):
                values = self.attributes.get(ast.unparse(expression), [])
                return bool(values) and all(
                    self._is_our_type(value) if is_annotation else self._is_made(value)
                    for value, is_annotation in values
                )
            case ast.Name(id=name):
                return self._is_our_variable(name, function)
        return False

    def _is_our_variable(self, name: str, function: ast.AST) -> bool:
        arguments = [node.annotation for node in ast.walk(function) if isinstance(node, ast.arg) and node.arg == name]
        if arguments:
            return all(self._is_our_type(annotation) for annotation in arguments)
        values = [
            (value, isinstance(node, ast.AnnAssign))
            for node in ast.walk(function)
            for target, value in _pairs(node)
            if isinstance(target, ast.Name) and target.id == name
        ]
        stores = [node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == name]
        if len(values) != sum(isinstance(node.ctx, ast.Store) for node in stores):
            return False  # a loop or an unpacking binds it too
        return bool(values) and all(
            self._is_our_type(value) if is_annotation else self.is_ours(value, function)
            for value, is_annotation in values
        )

    def _is_made(self, value: ast.expr) -> bool:
        return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and self._is_our_class(value.func.id)

    def _is_our_type(self, annotation: ast.expr | None) -> bool:
        names = set(re.findall(r"[A-Za-z_]\w*", ast.unparse(annotation))) - CONTAINERS if annotation else set()
        return bool(names) and all(self._is_our_class(name) for name in names)

    def _is_our_class(self, name: str) -> bool:
        return name in self.classes or (name in OURS and self.imported.get(name, "").split(".")[0] == "vllm_sim")


def _pairs(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Targets, and what each gets: its annotation, where it has one."""
    if isinstance(node, ast.AnnAssign):
        yield node.target, node.annotation
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield target, node.value


def changes(text: str) -> list[str]:
    """Assignments to attributes of what may be vLLM's, and other ways to change it, by their line."""
    module = Module(text)
    found: dict[int, str] = {}
    functions = [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef)]
    for scope in (module.tree, *functions):  # inner functions after outer ones: the innermost has the last word
        for node in ast.walk(scope):
            if reason := _change(node, module, scope):
                found[id(node)] = f"{node.lineno}: {reason}"  # type: ignore[attr-defined]
            else:
                found.pop(id(node), None)
    return sorted(found.values())


def _change(node: ast.AST, module: Module, scope: ast.AST) -> str | None:
    match node:
        case ast.Attribute(attr="__class__" | "__dict__", ctx=ast.Store() | ast.Del()):
            return ast.unparse(node)
        case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Store() | ast.Del()):
            return None
        case ast.Attribute(value=owner, ctx=ast.Store() | ast.Del()) if not module.is_ours(owner, scope):
            return ast.unparse(node)
        case (
            ast.Call(func=ast.Name(id="setattr" | "delattr" | "vars"))
            | ast.Call(func=ast.Attribute(attr="__setattr__"))
        ):
            return ast.unparse(node)
        case ast.Call(func=ast.Name(id="getattr"), args=[_, _, _]):
            return f"{ast.unparse(node)} takes a default where a name is missing"
        case ast.Call(func=ast.Attribute(value=owner, attr=name)) if name in MUTATORS and _root(owner, module):
            return ast.unparse(node)
        case ast.Subscript(value=owner, ctx=ast.Store() | ast.Del()) if _root(owner, module):
            return ast.unparse(node)
    return None


def _root(expression: ast.expr, module: Module) -> bool:
    """Whether an expression begins with a name that was imported from vLLM."""
    while isinstance(expression, ast.Attribute | ast.Subscript):
        expression = expression.value
    return isinstance(expression, ast.Name) and module.imported.get(expression.id, "").split(".")[0] == "vllm"


@pytest.mark.parametrize("path", sorted((PACKAGE / "engine").rglob("*.py")), ids=lambda path: path.name)
def test_only_contact_changes_what_is_vllms(path: Path) -> None:
    if path.name not in ALLOWED:
        assert changes(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "def f(manager: KVCacheManager) -> None:\n    manager.allocate_slots = 1",
        "def f(manager):\n    manager.__class__ = 1",
        "class A:\n    def f(self):\n        self.__class__ = 1",
        "def f(core):\n    core.scheduler.max_model_len = 1",
        "def f(core):\n    core.scheduler.max_model_len += 1",
        "def f(core):\n    del core.scheduler.max_model_len",
        "def f(core):\n    for core.x in (): pass",
        "class A:\n    def f(self, queue):\n        self.queue.x = 1",
        "def f(x):\n    setattr(x, 'a', 1)",
        "def f(x):\n    object.__setattr__(x, 'a', 1)",
        "def f(x):\n    return getattr(x, 'watermark_config', None)",
        "from vllm import envs\nenvs.environment_variables.setdefault('a', 1)",
        "from vllm import envs\nenvs.environment_variables['a'] = 1",
        "from vllm.v1.request import Request as Answers\ndef f(x: Answers):\n    x.path = 1",
        "from vllm_sim.engine.backends.ledger import Ledger\ndef f(x: Ledger | Request):\n    x.path = 1",
        "from vllm_sim.engine.backends.ledger import Ledger\n"
        "def f(make):\n    x = Ledger(1)\n    x = make()\n    x.path = 1",
        "from vllm_sim.engine.backends.ledger import Ledger\n"
        "def f(y):\n    x = Ledger(1)\n    for x in y:\n        x.path = 1",
        "class A:\n    def f(self, x):\n        self.a = A()\n        self.a = x\n        self.a.path = 1",
    ],
)
def test_a_change_of_what_may_be_vllms_is_found(text: str) -> None:
    assert changes(text)


@pytest.mark.parametrize(
    "text",
    [
        "class A:\n    def f(self):\n        self.x = 1",
        "from vllm_sim.engine.backends.ledger import Ledger\ndef f():\n    x = Ledger(1)\n    x.block_size = 1",
        "from vllm_sim.engine.backends.ledger import Ledger\ndef f(x: Ledger | None):\n    x.block_size = 1",
        "class A:\n    def f(self):\n        self.a: dict[str, A] = {}\n        self.a['b'].x = 1",
    ],
)
def test_a_change_of_what_is_ours_is_none(text: str) -> None:
    assert changes(text) == []


def test_a_name_that_upstream_has_moved_is_found_where_it_is() -> None:
    assert first_of("vllm.nowhere:one", "vllm.v1.core.block_pool:BlockPool").__name__ == "BlockPool"
    with pytest.raises(VersionError, match=r"has no vllm\.nowhere:one or vllm\.config:Nothing that vllm_sim can use"):
        first_of("vllm.nowhere:one", "vllm.config:Nothing")
