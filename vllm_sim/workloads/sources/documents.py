"""Questions to long documents: the .md and .txt files of a folder, about their own headings.

A session is a reader with one document and several questions; popular documents (the order is drawn once a workload)
get more readers. With `history` the questions are one chat; without it each follows the document alone. An answer
is the text below the heading, cut at a number of words.

    folder            searched with its subfolders
    min_characters, max_characters    of a document; others are not used (default: 4,000 to 60,000)
    popularity        exponent of Zipf's law over the documents; 0: all alike (default: 0.8)
    questions         distribution of a reader's questions (default: uniform, 2 to 6)
    history           whether they are one chat (default: false)
    answer_words      distribution (default: log-normal, median 60, sigma 0.6, 5 to 400)
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from vllm_sim.trace.formats.conversations import Conversation, requests_of
from vllm_sim.trace.record import Record
from vllm_sim.workloads.distribution import Distribution, LogNormal, Uniform, get_distribution
from vllm_sim.workloads.session import Seeds, Session, popular
from vllm_sim.workloads.tables import SWITCH, ConfigError, TomlTable, number, whole

SUFFIXES = (".md", ".txt")
SYSTEM = "You answer questions about the document that the user gives. Use nothing else, and quote it where you can."
QUESTIONS = (
    'What does the section "{}" say?',
    'Explain "{}" in the words of the document.',
    'Which steps or facts does the document give under "{}"?',
    'What should a newcomer know about "{}"?',
    'Is there anything to watch out for in "{}"?',
)
_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*")
_FENCE = re.compile(r"\s*(```|~~~)")


class Document(NamedTuple):
    text: str
    sections: list[tuple[str, str]]
    """Heading and the text below it, up to the next heading; one at least."""


@dataclass(frozen=True, slots=True)
class Documents:
    """Any number of readers; a folder of documents that are neither too short nor too long."""

    folder: Path
    min_characters: int
    max_characters: int
    popularity: float
    questions: Distribution
    has_history: bool
    answer_words: Distribution

    @classmethod
    def read(cls, table: TomlTable) -> Self:
        folder = table.file("folder")
        if not folder.is_dir():
            raise table.refuse("folder", f"a folder of {' and '.join(SUFFIXES)} files{table.hint()}")
        least = table.get("min_characters", whole(1), 4000)
        return cls(
            folder,
            least,
            table.get("max_characters", whole(least), 60_000),
            table.get("popularity", number(0, 5), 0.8),
            get_distribution(table, "questions", 1, Uniform(2, 6)),
            table.get("history", SWITCH, False),
            get_distribution(table, "answer_words", 1, LogNormal(60, 0.6, 5, 400)),
        )

    def sessions(self, count: int | None, seeds: Seeds) -> list[Session]:
        if count is None:
            raise ConfigError("a source of kind documents has no end; allowed: sessions or share")
        documents = self._documents()
        order = seeds.generator("order").permutation(len(documents))
        return [self._session(reader, documents, order, seeds) for reader in range(count)]

    def _documents(self) -> list[Document]:
        """Every document of a fitting length, in the order of the paths.

        Raises:
            ValueError: there is none, or a file is not UTF-8.
        """
        paths = sorted(path for path in self.folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
        documents = []
        for path in paths:
            try:
                text = path.read_text(encoding="utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}: not UTF-8: {error.reason} at byte {error.start + 1}") from None
            if self.min_characters <= len(text) <= self.max_characters:
                documents.append(Document(text, list(sections(text)) or [(path.stem, text)]))
        if not documents:
            raise ValueError(
                f"{self.folder}: none of its {len(paths)} documents ({', '.join(SUFFIXES)}) has {self.min_characters} "
                f"to {self.max_characters} characters; allowed: other min_characters and max_characters, another folder"
            )
        return documents

    def _session(self, reader: int, documents: list[Document], order: Any, seeds: Seeds) -> Session:
        generator = seeds.generator("questions", reader)
        document = documents[order[popular(generator, len(documents), self.popularity)]]
        questions = [self._question(document, generator) for _ in range(int(self.questions.draw(generator, 1)[0]))]
        return Session(reader, list(self._requests(reader, document, questions)))

    def _question(self, document: Document, generator: np.random.Generator) -> tuple[str, str]:
        heading, below = document.sections[int(generator.integers(len(document.sections)))]
        question = QUESTIONS[int(generator.integers(len(QUESTIONS)))].format(heading)
        words = below.split(" ")[: int(self.answer_words.draw(generator, 1)[0])]
        return question, " ".join(words)

    def _requests(self, reader: int, document: Document, questions: list[tuple[str, str]]) -> Iterator[Record]:
        system = {"role": "system", "content": SYSTEM}
        messages: list[dict[str, Any]] = [system]
        for turn, (question, answer) in enumerate(questions):
            with_document = f"{document.text}\n\n---\n\n{question}"
            is_first = turn == 0 or not self.has_history
            user = {"role": "user", "content": with_document if is_first else question}
            if not self.has_history:
                yield Record(id=f"{reader}-{turn}", turn=turn, messages=[system, user], response=answer)
            messages += [user, {"role": "assistant", "content": answer}]
        if self.has_history:
            yield from requests_of(Conversation(reader, messages))


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Yields heading and text below it for each section that has any; what looks like a heading in code is none."""
    heading: str | None = None
    below: list[str] = []
    is_code = False
    for line in text.splitlines():
        if _FENCE.match(line):
            is_code = not is_code
        found = None if is_code else _HEADING.fullmatch(line)
        if found is None:
            below.append(line)
            continue
        if heading is not None and (body := "\n".join(below).strip()):
            yield heading, body
        heading, below = found.group(1), []
    if heading is not None and (body := "\n".join(below).strip()):
        yield heading, body
