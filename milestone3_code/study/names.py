"""How mixes and traces are called in a text, and which rates the rows have."""

RATES = ("token_hit_rate", "block_hit_rate", "request_hit_rate")


def spoken(mix: str) -> str:
    """A mix's name, or that of a trace's file without its endings."""
    return mix.split(".")[0].replace("_", " ")
