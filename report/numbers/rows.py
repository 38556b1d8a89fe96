"""Rows that the report may cite."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milestone2_code.study.rows import FULL_CONVERSATIONS
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import check_commit, read_rows


class Rows:
    """The rows of one file."""

    def __init__(self, path: Path, maker: str):
        """Reads them.

        Args:
            path: a file of results.
            maker: the command that writes it, for the error message.

        Raises:
            ValueError: the file is not there, is of code that was not committed, or holds a row that is no result.
        """
        if not path.is_file():
            raise ValueError(f"no {path}; `{maker}` writes it")
        check_commit(path, maker)
        self.path, self.maker = path, maker
        self.rows = read_rows(path)
        for number, row in enumerate(self.rows, 1):
            reason = refusal(row)
            if reason:
                raise ValueError(f"{path}, line {number}: {reason}; the report takes results only: `{maker}`")

    def pick(self, experiment: str, **wanted: Any) -> list[Row]:
        """The rows of an experiment whose fields have these values, in the file's order.

        Raises:
            ValueError: there is none.
        """
        found = [row for row in self.rows if row["experiment"] == experiment and matches(row, wanted)]
        if not found:
            labels = ", ".join(f"{name} {value}" for name, value in wanted.items())
            raise ValueError(f"{self.path} has no row of {experiment} with {labels}; `{self.maker}` makes it")
        return found

    def one(self, experiment: str, **wanted: Any) -> Row:
        """The only row that `pick` finds.

        Raises:
            ValueError: there is none, or several.
        """
        found = self.pick(experiment, **wanted)
        if len(found) > 1:
            raise ValueError(f"{self.path} has {len(found)} rows of {experiment} with {wanted}; allowed: one")
        return found[0]


def matches(row: Row, wanted: dict[str, Any]) -> bool:
    """Whether a row's fields have these values."""
    return all(row.get(name) == value for name, value in wanted.items())


def refusal(row: Row) -> str | None:
    """Why a row is no result; None if it is one.

    Study one needs as many conversations as its own rows say; mixes and traces given by path are whole as they are.
    """
    if row.get("quick", True):
        return "the row of a quick run"
    conversations = row.get("conversations", FULL_CONVERSATIONS)
    if conversations < FULL_CONVERSATIONS:
        return f"the row has {conversations:,} conversations; allowed: {FULL_CONVERSATIONS:,} or more"
    return None


def values(rows: Sequence[Row], name: str) -> list[Any]:
    """A field's values, each once, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))
