"""A tiny Llama: the configuration alone, with the exported model's tokenizer. vLLM makes its weights up (dummy)."""

import json
import shutil
from pathlib import Path

EXPORTED = Path(__file__).parents[1] / "exported_models" / "Llama-3.2-1B-Instruct"
END_TOKEN = 128009
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}


def make_model(folder: Path) -> str:
    """Writes the model; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EXPORTED / name, folder)
    config = json.loads((EXPORTED / "config.json").read_text(encoding="utf-8"))
    # The exported model has further end tokens, which real execution may sample anywhere.
    own = SIZES | {"eos_token_id": END_TOKEN}
    (folder / "config.json").write_text(json.dumps(config | own, indent=2), encoding="utf-8")
    return str(folder)
