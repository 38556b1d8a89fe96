"""How mixes and traces are called in a text."""


def spoken(mix: str) -> str:
    """A mix's name, or that of a trace's file without its endings."""
    return mix.split(".")[0].replace("_", " ")
