"""How mixes and traces are called in a text, and which rates the rows have."""

from vllm_sim.replay.rows import Row

RATES = ("token_hit_rate", "block_hit_rate", "request_hit_rate")


def spoken(mix: str) -> str:
    """A mix's name, or that of a trace's file without its endings."""
    return mix.split(".")[0].replace("_", " ")


def arrivals(row: Row) -> str:
    """How requests of a row of the engine came, and which of them count."""
    window = f"{row['seconds'] - row['warmup_s']:g} s after a warm-up of {row['warmup_s']:g} s"
    return f"sessions at {row['load']:g} times the mix's rates, measured for {window}"
