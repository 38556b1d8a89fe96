"""Tables of a TOML file, read key by key; every mistake is one error that names file, table, key, value and what is
allowed.

Why msgspec does not check them: which keys a table may have, and their bounds, depend on the values of other keys
(`kind`, `start_s`, `low`), and its messages name neither the value nor the keys or kinds that are allowed.
"""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class ConfigError(ValueError):
    """A configuration that cannot be used."""


class Rule(NamedTuple):
    """What a value has to be."""

    test: Callable[[Any], bool]
    allowed: str


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def number(low: float, high: float, above: bool = False) -> Rule:
    """A number from `low` (`above`: more than it) to `high`."""
    start = "more than " if above else ""
    return Rule(
        lambda value: _is_number(value) and (low < value if above else low <= value) and value <= high,
        f"a number, {start}{low:g} to {high:g}",
    )


def whole(low: int, high: int = 10**9) -> Rule:
    """A whole number from `low` to `high`."""
    return Rule(lambda value: type(value) is int and low <= value <= high, f"a whole number, {low} to {high}")


def choice(*names: str) -> Rule:
    """One of some texts."""
    return Rule(lambda value: isinstance(value, str) and value in names, ", ".join(names))


TEXT = Rule(lambda value: isinstance(value, str) and value != "", "a text that is not empty")
SWITCH = Rule(lambda value: isinstance(value, bool), "true, false")
TABLE = Rule(lambda value: isinstance(value, dict), "a table")


def texts(*names: str) -> Rule:
    """A list of some texts, one at least and none twice."""
    return Rule(
        lambda value: (
            isinstance(value, list)
            and bool(value)
            and all(isinstance(name, str) and name in names for name in value)
            and len(set(value)) == len(value)
        ),
        f"a list of {', '.join(names)}",
    )


class TomlTable:
    """One table of a file. Keys that no caller has read are refused by `close`."""

    def __init__(self, values: dict[str, Any], path: Path, name: str):
        self.path, self.name = path, name
        self._values = values
        self._asked: dict[str, None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Any:
        return iter(self._values)

    def get(self, key: str, rule: Rule, default: Any = None) -> Any:
        """The value of a key, or the default where the table does not have it.

        Raises:
            ConfigError: the value breaks the rule.
        """
        self._asked[key] = None
        if key not in self._values:
            return default
        value = self._values[key]
        if not rule.test(value):
            raise self.refuse(key, rule.allowed)
        return value

    def need(self, key: str, rule: Rule) -> Any:
        """The value of a key that has to be there.

        Raises:
            ConfigError: it is not, or it breaks the rule.
        """
        if key not in self._values:
            raise ConfigError(f"{self}: {key} is missing; allowed: {rule.allowed}")
        return self.get(key, rule)

    def table(self, key: str) -> "TomlTable | None":
        """The table under a key."""
        values = self.get(key, TABLE)
        return None if values is None else TomlTable(values, self.path, f"{self.name}.{key}" if self.name else key)

    def need_table(self, key: str) -> "TomlTable":
        """The table under a key that has to be there."""
        self.need(key, TABLE)
        table = self.table(key)
        assert table is not None
        return table

    def file(self, key: str) -> Path:
        """A path that has to be there; relative ones start at the configuration's folder."""
        return self.path.parent / self.need(key, TEXT)

    def one_of(self, rules: dict[str, Rule]) -> str:
        """The one of some keys that the table has; its value is not read.

        Raises:
            ConfigError: it has none or several of them.
        """
        self._asked.update(dict.fromkeys(rules))
        found = [key for key in rules if key in self._values]
        if len(found) != 1:
            shown = " and ".join(found) if found else "none"
            raise ConfigError(f"{self}: one of {', '.join(rules)} is needed, found: {shown}")
        return found[0]

    def hint(self) -> str:
        """How to get what is missing, where the table has a `get` that names the command."""
        command = self.get("get", TEXT)
        return "" if command is None else f"; to get it: {command}"

    def refuse(self, key: str, allowed: str) -> ConfigError:
        """The error for a value that is not allowed."""
        shown = json.dumps(self._values[key], default=str, ensure_ascii=False)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return ConfigError(f"{self}: {key} is {shown}; allowed: {allowed}")

    def close(self) -> None:
        """To be called when all was read.

        Raises:
            ConfigError: the table has a key that no caller has read.
        """
        for key in self._values:
            if key not in self._asked:
                raise self.refuse(key, f"no such key here; the keys are {', '.join(self._asked)}")

    def __str__(self) -> str:
        return f"{self.path}, table [{self.name}]" if self.name else f"{self.path}, top level"


def read_toml(path: Path) -> TomlTable:
    """The top level of a file.

    Raises:
        ConfigError: it is not there or not TOML.
    """
    try:
        return TomlTable(tomllib.loads(path.read_text(encoding="utf-8")), path, "")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start + 1}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
