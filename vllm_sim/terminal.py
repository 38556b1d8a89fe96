"""What the commands show on a terminal: tables that are not cut, bars on a terminal only, and names as they are.

Names come out of traces. They are no markup here, and what would steer a terminal is written as its escape.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


_WIDEST = 10**6
"""Characters of a line: more than any table has."""


def printable(value: object) -> str:
    """A text in which control characters are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def say(value: object, to_stderr: bool = False) -> None:
    """Prints a line that may hold names, control characters escaped."""
    print(printable(value), file=sys.stderr if to_stderr else sys.stdout)


def exit_code(work: Callable[[], object]) -> int:
    """Does the work of a script; returns its exit code, 1 after an error, which is said in one line."""
    try:
        work()
    except (ValueError, OSError) as error:
        say(f"error: {error}", to_stderr=True)
        return 1
    return 0


def plain(value: object) -> "Text":
    """A text as it is, without markup."""
    from rich.text import Text

    return Text(printable(value))


def show_table(
    title: str,
    headers: Sequence[object],
    rows: Iterable[Sequence[object]],
    caption: str | None = None,
    console: "Console | None" = None,
) -> None:
    """Prints a table; the first column is text, the others are numbers.

    Lines become longer than the terminal rather than columns are cut.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    table = Table(title=plain(title), caption=caption and plain(caption), box=box.SIMPLE, padding=(0, 0, 0, 1))
    for place, header in enumerate(headers):
        table.add_column(plain(header), justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(plain, row))
    console.width = _WIDEST
    console.print(table)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to be called with the numbers of finished and of all things."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def byte_bar(title: str, path: Path) -> Iterator[Callable[[int], None] | None]:
    """Gives a function to be called with the number of bytes of a file that were read; None if there is no bar."""
    if not sys.stderr.isatty() or not path.is_file():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(printable(title), total=path.stat().st_size)
        yield lambda done: progress.update(task, completed=done)
