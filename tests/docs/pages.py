"""The README and the manual as blocks of code, each with what its page says of it.

A fenced block is one of: a file, where the text before it ends in "`NAME`:"; commands, where it is marked `sh`; or what
the commands before it print. An HTML comment right before a block says more (docs/contributing.md).
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")))

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_FILE = re.compile(r"`([\w-]+\.\w+)`:\s*\Z")
_NOT_RUN = "not run: "


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    text: str
    file: str | None
    """Name of the file that it is."""
    mark: str
    """The comment before it, empty without one."""

    @property
    def place(self) -> str:
        return f"{self.page}, line {self.line}"

    @property
    def is_output(self) -> bool:
        return self.mark == "output"

    @property
    def is_slow(self) -> bool:
        return self.mark == "slow"

    @property
    def reason(self) -> str:
        """Why its commands are not run; empty where they are."""
        return self.mark.removeprefix(_NOT_RUN) if self.mark.startswith(_NOT_RUN) else ""

    @property
    def is_run(self) -> bool:
        return self.language == "sh" and self.file is None and not self.reason


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        name = _FILE.search(before)
        line = before.count("\n") + 1
        mark = match["mark"] or ""
        found.append(Block(page, line, match["language"], match["text"], name[1] if name else None, mark))
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a block, as words; what sets the environment in front of a command is left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in (*shlex.split(line, comments=True), "&&"):
            if word == "&&":
                if words:
                    yield words
                words = []
            elif words or not re.fullmatch(r"[A-Z_]+=.*", word):
                words.append(word)
