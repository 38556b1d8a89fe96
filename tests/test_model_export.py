"""The exported model: its tokenizer as transformers loads it, and what an export does to a folder."""

import json
import subprocess
import sys
from pathlib import Path

MODEL = Path(__file__).parents[1] / "exported_models" / "Llama-3.2-1B-Instruct"
LOAD = """
import json, sys, warnings
warnings.simplefilter("error")
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
config = AutoConfig.from_pretrained(sys.argv[1])
GenerationConfig.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
chat = tokenizer.apply_chat_template([{"role": "user", "content": "hehe"}], add_generation_prompt=True, tokenize=False)
text = "a\\r\\n  b \\U0001f937"
print(json.dumps({
    "architectures": config.architectures,
    "size": [config.num_hidden_layers, config.hidden_size, config.vocab_size, len(tokenizer)],
    "hehe": tokenizer("hehe")["input_ids"],
    "hahaha!": tokenizer("hahaha!", add_special_tokens=False)["input_ids"],
    "chat": chat,
    "back": tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text,
}))
"""


def test_transformers_loads_the_export_without_a_warning_and_with_the_published_tokens() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(MODEL)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    loaded = json.loads(result.stdout)
    assert loaded["architectures"] == ["LlamaForCausalLM"]
    assert loaded["size"] == [16, 2048, 128256, 128256]
    assert loaded["hehe"] == [128000, 383, 383]
    assert loaded["hahaha!"] == [71, 74635, 0]
    assert loaded["chat"] == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhehe<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert loaded["back"]
