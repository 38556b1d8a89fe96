"""Configurations of well-known open models by name, and the folder that is made of one: its config.json.

No tokenizer comes with them: traces of token ids and hash ids need none. Facts and their sources: known.toml.
"""

import functools
import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from vllm_sim.trace.files import open_output


class KnownModel(NamedTuple):
    """An open model."""

    name: str
    source: str
    """Its page on the Hugging Face hub, whose config.json has the facts."""
    parameters: float
    """In thousands of millions, of what vLLM builds."""
    config: dict[str, Any]
    """The fields of its config.json."""


@functools.cache
def known_models() -> dict[str, KnownModel]:
    """The models by name, in the order of known.toml."""
    found = tomllib.loads(files("vllm_sim.models").joinpath("known.toml").read_text(encoding="utf-8"))
    return {
        name: KnownModel(name, row["source"], row["parameters"], row["config"] | {"torch_dtype": "bfloat16"})
        for name, row in found.items()
    }


def write_config(name: str, out: Path) -> Path:
    """Writes the config.json of a model into a folder, which is made if it is not there.

    Returns:
        The file.

    Raises:
        ValueError: the name is not known, or the folder holds another config.json.
    """
    if name not in known_models():
        raise ValueError(f"model is {name!r}; allowed: {', '.join(known_models())}")
    path, text = out / "config.json", json.dumps(known_models()[name].config, indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{path} is there already and says something else; allowed: another folder")
    out.mkdir(parents=True, exist_ok=True)
    with open_output(path) as file:
        file.write(text)
    return path
