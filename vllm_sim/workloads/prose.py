"""Plain English sentences from a generator of random numbers: text that tokenises as text does, and means nothing."""

import numpy as np


def listed(text: str) -> tuple[str, ...]:
    """The entries of a text between commas; line ends count as blanks."""
    return tuple(" ".join(entry.split()) for entry in text.split(","))


_OPENINGS = listed("However, In practice, Since then, For this reason, At first, On most days, As a rule, By contrast")
_ADJECTIVES = listed("""small, early, careful, public, northern, quiet, recent, common, steady, useful, narrow, bright,
    heavy, local, modern, regular, simple, distant, active, formal, gentle, broken, central, empty, famous, green,
    hidden, ideal, joint, large""")
_NOUNS = listed("""harbour, committee, engine, garden, report, station, library, bridge, market, signal, teacher, river,
    archive, contract, kitchen, journal, valley, workshop, council, ticket, railway, village, compass, lantern, painter,
    orchard, method, census, ledger, island, printer, account, survey, museum, customer, invoice, schedule, warehouse,
    release, measure""")
_VERBS = listed("""describes, follows, replaces, measures, carries, explains, needs, supports, avoids, remembers, opens,
    checks, improves, repairs, collects, shows, changes, protects, delays, orders, reviews""")
_ENDINGS = listed("""every morning, without much noise, in the second year, at the end of the month, before the meeting,
    near the old wall, for several weeks, as it was agreed, against all advice, with two assistants, on the first
    attempt, under the new rules, because nobody objected, until the work was finished""")


def sentence(generator: np.random.Generator) -> str:
    """One sentence of about a dozen words."""
    pick = generator.integers(0, 1 << 30, size=8)

    def word(words: tuple[str, ...], place: int) -> str:
        return words[pick[place] % len(words)]

    start = f"{word(_OPENINGS, 0)}, the" if pick[7] % 3 == 0 else "The"
    subject = f"{word(_ADJECTIVES, 1)} {word(_NOUNS, 2)}"
    target = f"{word(_ADJECTIVES, 4)} {word(_NOUNS, 5)}"
    return f"{start} {subject} {word(_VERBS, 3)} the {target} {word(_ENDINGS, 6)}."


def prose(generator: np.random.Generator, words: int) -> str:
    """Sentences of a number of words in all; the last one is cut at that number and ends in a full stop."""
    found: list[str] = []
    while len(found) < words:
        found.extend(sentence(generator).split(" "))
    return " ".join(found[:words]).rstrip(".,") + "."
