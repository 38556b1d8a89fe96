"""One-off API calls: a text and what to do with it, completions without any reuse.

No two prompts share a prefix: each begins with a reference number of its own (at blocks of 8 tokens or more, the first
block differs already).

    prompt_words      distribution of the text's length (default: log-normal, median 300, sigma 0.8, 10 to 4000)
    answer_words      of the answer (default: log-normal, median 80, sigma 0.6, 5 to 1000), or
    output_tokens     the same without a text
"""

from dataclasses import dataclass
from typing import Self

from vllm_sim.trace.record import Record
from vllm_sim.workloads.distribution import Distribution, LogNormal, get_distribution
from vllm_sim.workloads.prose import prose
from vllm_sim.workloads.session import Seeds, Session
from vllm_sim.workloads.sources.answers import AnswerSource, read_answers
from vllm_sim.workloads.tables import ConfigError, TomlTable

TASKS = (
    "Summarise the text above in one sentence.",
    "Translate the text above into French.",
    "List the nouns of the text above.",
    "Rewrite the text above for a child of ten.",
    "Give the text above a title.",
)


@dataclass(frozen=True, slots=True)
class OneOff:
    """Any number of requests."""

    prompt_words: Distribution
    answers: AnswerSource

    @classmethod
    def read(cls, table: TomlTable) -> Self:
        return cls(
            get_distribution(table, "prompt_words", 1, LogNormal(300, 0.8, 10, 4000)),
            read_answers(table, LogNormal(80, 0.6, 5, 1000)),
        )

    def sessions(self, count: int | None, seeds: Seeds) -> list[Session]:
        if count is None:
            raise ConfigError("a source of kind oneoff has no end; allowed: sessions or share")
        first = int(seeds.generator("reference").integers(10**9))
        return [Session(None, [self._request(number, first, seeds)]) for number in range(count)]

    def _request(self, number: int, first: int, seeds: Seeds) -> Record:
        generator = seeds.generator("text", number)
        words = int(self.prompt_words.draw(generator, 1)[0])
        # Every number of nine digits comes once: the factor and the modulus have no common divisor.
        reference = (first + number * 618_033_989) % 10**9
        task = TASKS[int(generator.integers(len(TASKS)))]
        prompt = f"{reference:09d}\n\n{prose(generator, words)}\n\n{task}\n"
        return Record(id=str(number), prompt=prompt, **self.answers.invent(generator))
