"""Few-shot batches: an instruction and worked examples that many questions share, as completions.

An example set is a task and a number of its examples; a batch is a number of questions to one set that arrive
together. Questions and right answers are made here. Popular sets get more batches (Zipf).

    sets              number of example sets (default: 8), over four tasks
    examples          of a set (default: 16)
    popularity        exponent of Zipf's law over the sets; 0: all alike (default: 1)
    questions         distribution of a batch's size (default: 8)
    output_tokens     distribution of the answers' lengths, in place of the right answer as text
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from vllm_sim.trace.record import Record
from vllm_sim.workloads.distribution import Distribution, Fixed, get_distribution, read_distribution
from vllm_sim.workloads.prose import listed
from vllm_sim.workloads.session import Seeds, Session, popular
from vllm_sim.workloads.sources.answers import AnswerSource
from vllm_sim.workloads.tables import ConfigError, TomlTable, number, whole

GOODS = listed("apples, pencils, tickets, bricks, candles, maps, chairs, stamps, bottles, lamps, coins, shirts")
NAMES = listed("Ada, Bram, Chloe, Dev, Elif, Femi, Gita, Hugo, Ines, Jonas, Kemi, Lars, Mina, Noor, Otto, Pia")
CITIES = listed("Lima, Oslo, Accra, Kyoto, Turin, Quito, Leeds, Perth, Cairo, Lyon, Delhi, Malmö")
MONTHS = listed("January, February, March, April, May, June, July, August, September, October, November, December")
PRAISE = listed("The staff were kind, It arrived a day early, Everything worked at once, I would buy it again")
BLAME = listed("The box was torn, Nobody answered my letter, It stopped after a week, The colour was wrong")


class Task(NamedTuple):
    instruction: str
    example: Callable[[np.random.Generator], tuple[str, str]]
    """Makes a question and its answer."""


def _pick(generator: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(generator.integers(len(words)))]


def _arithmetic(generator: np.random.Generator) -> tuple[str, str]:
    first, boxes, lost = (int(value) for value in generator.integers(2, 60, size=3))
    name, goods = _pick(generator, NAMES), _pick(generator, GOODS)
    total = boxes * (first + lost)
    question = f"{name} has {boxes} boxes of {first + lost} {goods} and takes {lost} out of each. How many are left?"
    reason = f"{boxes} boxes times {first + lost} are {total}; {boxes} times {lost} are {boxes * lost}."
    return question, f"{reason} {total} - {boxes * lost} = {total - boxes * lost}."


def _dates(generator: np.random.Generator) -> tuple[str, str]:
    year, month, day = (int(generator.integers(*span)) for span in ((1950, 2030), (1, 13), (1, 29)))
    name, city = _pick(generator, NAMES), _pick(generator, CITIES)
    sentence = f"{name} came to {city} on {day} {MONTHS[month - 1]} {year} and stayed there."
    return sentence, f'{{"name": "{name}", "place": "{city}", "date": "{year}-{month:02d}-{day:02d}"}}'


def _sentiment(generator: np.random.Generator) -> tuple[str, str]:
    is_praise = bool(generator.integers(2))
    remark, city = _pick(generator, PRAISE if is_praise else BLAME), _pick(generator, CITIES)
    goods = _pick(generator, GOODS)
    return f"I ordered {goods} from {city}. {remark}.", "positive" if is_praise else "negative"


def _sorting(generator: np.random.Generator) -> tuple[str, str]:
    names = [NAMES[place] for place in generator.permutation(len(NAMES))[:6]]
    return ", ".join(names), ", ".join(sorted(names))


TASKS = (
    Task("Solve each problem. Give the steps, then the number.", _arithmetic),
    Task("Extract the name, the place and the date of each sentence as JSON.", _dates),
    Task("Say whether each review is positive or negative.", _sentiment),
    Task("Sort the names of each list by the alphabet.", _sorting),
)


@dataclass(frozen=True, slots=True)
class FewShot:
    """Any number of batches."""

    sets: int
    examples: int
    popularity: float
    questions: Distribution
    output_tokens: AnswerSource | None

    @classmethod
    def read(cls, table: TomlTable) -> Self:
        tokens = table.table("output_tokens")
        return cls(
            table.get("sets", whole(1, 10_000), 8),
            table.get("examples", whole(0, 1000), 16),
            table.get("popularity", number(0, 5), 1.0),
            get_distribution(table, "questions", 1, Fixed(8)),
            None if tokens is None else AnswerSource(read_distribution(tokens, 1), is_tokens=True),
        )

    def sessions(self, count: int | None, seeds: Seeds) -> list[Session]:
        if count is None:
            raise ConfigError("a source of kind fewshot has no end; allowed: sessions or share")
        heads = [self._head(number, seeds) for number in range(self.sets)]
        return [self._batch(number, heads, seeds) for number in range(count)]

    def _head(self, number: int, seeds: Seeds) -> str:
        """What the questions to a set have in common."""
        task, generator = TASKS[number % len(TASKS)], seeds.generator("examples", number)
        pairs = (task.example(generator) for _ in range(self.examples))
        shown = "".join(f"Input: {question}\nOutput: {answer}\n\n" for question, answer in pairs)
        return f"{task.instruction} (Set {number + 1}.)\n\n{shown}"

    def _batch(self, number: int, heads: list[str], seeds: Seeds) -> Session:
        generator = seeds.generator("questions", number)
        chosen = popular(generator, self.sets, self.popularity)
        records = []
        for place in range(int(self.questions.draw(generator, 1)[0])):
            question, answer = TASKS[chosen % len(TASKS)].example(generator)
            response: dict[str, Any] = {"response": f" {answer}"}
            if self.output_tokens is not None:
                response = self.output_tokens.invent(generator)
            records.append(
                Record(id=f"{number}-{place}", prompt=f"{heads[chosen]}Input: {question}\nOutput:", **response)
            )
        return Session(None, records)
