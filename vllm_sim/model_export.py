"""Builds the folder of a model without weights: configuration, tokenizer and chat template of Llama 3.2 1B Instruct.

The architecture is the published one. The tokenizer is Meta's own file out of the PyPI package `llama-models`,
converted by transformers' TikTokenConverter; it is under the Llama licence, so it is built on the user's machine and
never committed. The chat template is this project's: Llama 3's header format, without the date that Meta's template
writes into the system turn, so that a chat recorded today has the same tokens tomorrow.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from vllm_sim.trace.files import open_output

RECIPE = 1
"""Raised when the files that are built change; an export of an older recipe is built again."""
MARKER = "built-by-vllm-sim.json"

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "pretraining_tp": 1,
    "use_cache": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    # As published. Without a version before 5, transformers takes the tokenizer for one with a wrong pattern and warns.
    "transformers_version": "4.45.0.dev0",
}

GENERATION_CONFIG: dict[str, Any] = {
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.9,
}

SPECIAL_TOKENS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(3, 248)),
]

TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|begin_of_text|>",
    "eos_token": "<|eot_id|>",
    "clean_up_tokenization_spaces": False,
    "model_input_names": ["input_ids", "attention_mask"],
    "model_max_length": 131072,
}

CHAT_TEMPLATE = """\
{%- macro turn(role) -%}
    {{- "<|start_header_id|>" + role + "<|end_header_id|>\\n\\n" }}
{%- endmacro -%}
{{- bos_token }}
{%- set has_system = messages and messages[0]["role"] == "system" -%}
{%- if has_system or tools -%}
    {{- turn("system") }}
    {{- messages[0]["content"] if has_system else "" }}
    {%- if tools -%}
        {{- "\\n\\n" if has_system else "" }}
        {{- "You can call these functions. To call one, answer with a JSON object only: " }}
        {{- '{"name": function name, "parameters": arguments by name}.' }}
        {%- for tool in tools -%}
            {%- set function = tool["function"] -%}
            {{- '\\n\\n{"name": ' + (function["name"] | tojson) }}
            {{- ', "description": ' + (function["description"] | default("", true) | tojson) }}
            {{- ', "parameters": ' + (function["parameters"] | default({}, true) | tojson) + "}" }}
        {%- endfor -%}
    {%- endif -%}
    {{- "<|eot_id|>" }}
{%- endif -%}
{%- for message in (messages[1:] if has_system else messages) -%}
    {{- turn("ipython" if message["role"] == "tool" else message["role"]) }}
    {{- message["content"] or "" }}
    {%- for call in message["tool_calls"] or [] -%}
        {{- "\\n" if message["content"] or not loop.first else "" }}
        {{- '{"name": ' + (call["function"]["name"] | tojson) }}
        {{- ', "parameters": ' + (call["function"]["arguments"] | tojson) + "}" }}
    {%- endfor -%}
    {{- "<|eot_id|>" }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- turn("assistant") }}
{%- endif -%}
"""


def export_model(out: Path) -> bool:
    """Builds the model's files in a folder; takes about 25 s, most of it the conversion of the tokenizer.

    Args:
        out: The folder; made if it is not there. Files are written under temporary names and renamed, the marker's
            recipe last.

    Returns:
        False if nothing was done: the export is there already, or the folder holds a model that is not ours.

    Raises:
        ImportError: `llama-models`, `transformers` or `tiktoken` is not installed.
    """
    marker = out / MARKER
    if marker.exists():
        if json.loads(marker.read_text()).get("recipe") == RECIPE:
            return False
    elif (out / "config.json").exists() and (out / "tokenizer.json").exists():
        return False
    tokenizer = _convert_tokenizer()
    out.mkdir(parents=True, exist_ok=True)
    _write(marker, _as_json({"recipe": None}))  # an export that is interrupted here is known as ours, and built again
    _write(out / "config.json", _as_json(CONFIG))
    _write(out / "generation_config.json", _as_json(GENERATION_CONFIG))
    _write(out / "tokenizer.json", tokenizer)
    _write(out / "tokenizer_config.json", _as_json(TOKENIZER_CONFIG))
    _write(out / "chat_template.jinja", CHAT_TEMPLATE)
    _write(marker, _as_json({"recipe": RECIPE, "tokenizer": "llama-models"}))
    return True


def _convert_tokenizer() -> str:
    source = importlib.util.find_spec("llama_models")
    if source is None or not source.submodule_search_locations:
        raise ModuleNotFoundError("the package llama-models holds the tokenizer", name="llama_models")
    file = Path(source.submodule_search_locations[0]) / "llama3" / "tokenizer.model"
    import tiktoken  # noqa: F401  # the converter imports it late, and takes any error for a missing package
    from tokenizers import processors
    from transformers.convert_slow_tokenizer import TikTokenConverter

    tokenizer = TikTokenConverter(vocab_file=str(file), extra_special_tokens=SPECIAL_TOKENS).converted()
    bos = TOKENIZER_CONFIG["bos_token"]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A",
                pair=f"{bos} $A {bos}:1 $B:1",
                special_tokens=[(bos, tokenizer.token_to_id(bos))],
            ),
        ]
    )
    return tokenizer.to_str()


def _as_json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    with open_output(path) as file:
        file.write(text)
