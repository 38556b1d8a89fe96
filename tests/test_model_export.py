"""The exported model: its tokenizer as transformers loads it, and what an export does to a folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_sim import model_export

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


@pytest.mark.slow
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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversion of the tokenizer takes 20 s, and what an export does to a folder does not depend on it."""
    monkeypatch.setattr(model_export, "_convert_tokenizer", lambda: "{}")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("files", range(7))
def test_interrupted_export_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    write, left = model_export._write, [*range(files)]

    def write_some(path: Path, text: str) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(model_export, "_write", write_some)
        with pytest.raises(KeyboardInterrupt):
            model_export.export_model(tmp_path)
    assert model_export.export_model(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == model_export.CHAT_TEMPLATE
    assert not model_export.export_model(tmp_path)


@pytest.mark.usefixtures("quick")
def test_export_of_an_older_recipe_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_export.export_model(tmp_path)
    monkeypatch.setattr(model_export, "RECIPE", model_export.RECIPE + 1)
    assert model_export.export_model(tmp_path)


@pytest.mark.usefixtures("quick")
def test_model_that_the_user_has_put_there_is_left_alone(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("the user's")
    assert not model_export.export_model(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "config.json": "the user's",
        "tokenizer.json": "the user's",
    }
