"""How numbers are written in the report: the only place that rounds.

A cell of a table between backticks is set as code (report/lib.typ).
"""

from collections.abc import Sequence

from vllm_sim.replay.rows import Row

MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"


def percent(share: float, digits: int = 1) -> str:
    """0.123 is 12.3 %."""
    return f"{number(share * 100, digits)}{THIN}%"


def rate(share: float) -> str:
    """A hit rate in a table: 0.123 is 12.3."""
    return number(share * 100, 1)


def points(difference: float, digits: int = 2) -> str:
    """A difference of two rates, with its sign: 0.0123 is +1.23 points."""
    return f"{signed(difference * 100, digits)} points"


def signed(value: float, digits: int = 2) -> str:
    """With its sign, unless it rounds to 0."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and float(f"{value:.{digits}f}") else text


def number(value: float, digits: int = 0) -> str:
    """With separators and a real minus; what rounds to 0 has no sign."""
    text = f"{value:,.{digits}f}"
    return text.replace("-", "" if not float(text.replace(",", "")) else MINUS)


def between(pair: Sequence[float], factor: float = 100.0, digits: int = 1) -> str:
    """An interval."""
    return " to ".join(number(end * factor, digits) for end in pair)


def with_interval(row: Row, name: str) -> str:
    """A rate in a table, and its interval where the row has one."""
    pair = row.get(f"{name}_ci95")
    return rate(row[name]) + (f" ({between(pair)})" if pair else "")


def share_name(share: float | None) -> str:
    """A capacity as a share of the working set."""
    return "unlimited" if share is None else f"{share * 100:g}{THIN}%"


def spaced(capacity: str) -> str:
    """A capacity as plans write it: 10% is 10 %; of the largest request: "largest request"."""
    return {"largest": "largest request"}.get(capacity, capacity.replace("%", f"{THIN}%"))


def timed(row: Row, name: str, digits: int = 1) -> str:
    """A time or a speed, and its interval where the row has one."""
    pair = row.get(f"{name}_ci95")
    return number(row[name], digits) + (f" ({between(pair, 1.0, digits)})" if pair else "")
