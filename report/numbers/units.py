"""Numbers of the main result in the units of a server: what a device holds, seconds of traffic, operations and time."""

from typing import Any, NamedTuple

from report.numbers.mixed import BLOCK, GIB, GIB_8B, RANGE
from report.numbers.rows import Rows
from report.numbers.texts import between, number, percent, rate, signed, spaced
from vllm_sim.replay.latency import DEVICES

Numbers = dict[str, Any]
UTILISATION, RESERVE_GIB = 0.9, 2
"""The share of a device that vLLM takes by default, and what it keeps of it for activations and the rest."""


class Model(NamedTuple):
    """A model of which every layer has full attention."""

    name: str
    weights: float
    """Parameters, two bytes each."""
    times: int
    """Bytes of a token, as a multiple of those of the model in the rows."""


MODELS = (Model("Llama-3.2-1B", 1.236e9, 1), Model("Llama-3.1-8B", 8.030e9, GIB_8B))
"""By their model cards; a token takes 32 and 128 KiB."""
SHOWN = (("Llama-3.2-1B", "l4"), ("Llama-3.2-1B", "h100"), ("Llama-3.1-8B", "l4"), ("Llama-3.1-8B", "h100"))


def cache_gib(model: Model, device: str) -> float:
    """GiB that are left for the cache."""
    memory = DEVICES[device].memory_gib
    assert memory is not None
    return UTILISATION * memory - 2 * model.weights / GIB - RESERVE_GIB


def device_numbers(rows: Rows, mixes: list[str]) -> Numbers:
    """What share of each mix's working set a device holds.

    Args:
        rows: of the main result.
        mixes: their names.
    """
    whole = {mix: _working_set_gib(rows, mix) for mix in mixes}
    by_name = {model.name: model for model in MODELS}
    table, shares = [], {}
    for name, device in SHOWN:
        model = by_name[name]
        room = cache_gib(model, device)
        held = [room / (model.times * whole[mix]) for mix in mixes]
        shares[f"{name} {device}"] = f"{percent(min(held), 0)} to {percent(max(held), 0)}"
        table.append([f"`{name}`", device.upper(), number(room, 1), *(number(100 * share) for share in held)])
    small, large = MODELS
    return {
        "head": ["model", "device", "GiB", *mixes],
        "table": table,
        "utilisation": percent(UTILISATION, 0),
        "reserve": number(RESERVE_GIB),
        "device_small": SHOWN[0][1].upper(),
        "device_large": SHOWN[-1][1].upper(),
        "small_l4": shares[f"{small.name} l4"],
        "small_h100": shares[f"{small.name} h100"],
        "large_l4": shares[f"{large.name} l4"],
        "large_h100": shares[f"{large.name} h100"],
    }


def _working_set_gib(rows: Rows, mix: str) -> float:
    row = rows.one("gap", mix=mix, policy="lru", capacity=RANGE[-1], block_size=BLOCK)
    share = float(RANGE[-1].removesuffix("%")) / 100
    return float(row["capacity_gib"]) / share


def unit_table(rows: Rows, mixes: list[str], least: float) -> list[list[str]]:
    """Each mix at each capacity: GiB of two models, seconds of traffic; gap, share.

    Args:
        rows: of the main result.
        mixes: their names.
        least: gap, in token hit rate, below which no share is shown.
    """
    table = []
    for mix in mixes:
        for capacity in RANGE:
            best, hybrid = (
                rows.one("gap", mix=mix, capacity=capacity, policy=name, block_size=BLOCK)
                for name in ("belady", "hybrid")
            )
            gib, seconds = best["capacity_gib"], best["capacity_seconds"]
            sizes = [number(gib, 1), number(GIB_8B * gib, 1), "" if seconds is None else number(seconds)]
            drawn = best["gain_over_lru"] >= least
            share = f"{rate(hybrid['gap_closed'])} ({between(hybrid['gap_closed_ci95'])})" if drawn else ""
            rates = [rate(best["token_hit_rate"] - best["gain_over_lru"]), rate(best["token_hit_rate"])]
            table.append([mix, spaced(capacity), *sizes, *rates, signed(100 * hybrid["gain_over_lru"]), share])
    return table


def saved_numbers(rows: Rows, places: list[str]) -> Numbers:
    """Hit tokens beside the operations and the time that they save, over the capacities of the main result.

    Args:
        rows: of the main result.
        places: names of mixes, and at the end that of all of them.
    """
    table = []
    for mix in places:
        found = {
            name: rows.one("gap", mix=mix, capacity=None, policy=name, block_size=BLOCK)
            for name in ("lru", "hybrid", "belady")
        }
        hybrid = found["hybrid"]
        cells = [rate(row[field]) for field in ("token_hit_rate", "compute_hit_rate") for row in found.values()]
        closed = [rate(hybrid[field]) for field in ("gap_closed", "compute_gap_closed")]
        table.append([mix, *cells, *closed, *(number(row["saved_ms_a_request"], 2) for row in found.values())])
    times = {name: number(row["saved_ms_a_request"], 1) for name, row in found.items()}
    return {"table": table, "device": hybrid["device"].upper(), **times}
