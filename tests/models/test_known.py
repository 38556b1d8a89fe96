"""Configurations of open models: which there are, and what a folder gets."""

import json
from pathlib import Path

import pytest

from vllm_sim.cli.main import main
from vllm_sim.models.known import known_models, write_config
from vllm_sim.models.layers import keeps_less
from vllm_sim.sweep.capacity import kv_bytes_a_token

NAMES = {
    "gpt-oss-20b", "gemma-3-27b", "gemma-4-31b", "llama-4-scout", "qwen3.6-27b", "qwen3.6-35b-a3b", "deepseek-v3.2",
    "glm-4.6", "glm-4.7-flash", "kimi-k2", "granite-4-h-small", "falcon-h1-7b", "jamba-1.5-mini", "mimo-v2-flash",
    "command-a", "mistral-7b-v0.1", "olmo-3-7b",
}  # fmt: skip


def test_well_known_models_are_listed_with_their_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"] for row in rows} >= NAMES
    assert all(row["source"].count("/") == 1 and row["config"]["architectures"] for row in rows)
    assert main(["model", "list"]) == 0
    assert "openai/gpt-oss-20b" in capsys.readouterr().out


@pytest.mark.parametrize("name", known_models())
def test_transformers_reads_what_is_written(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    assert main(["model", "config", name, "--out", str(tmp_path / name)]) == 0
    if name == "kimi-k2":  # vLLM maps this model_type to DeepSeek's, transformers does not know it
        return
    config = AutoConfig.from_pretrained(tmp_path / name)
    assert config.num_hidden_layers == known_models()[name].config["num_hidden_layers"]
    kinds = getattr(config, "layer_types", None)
    assert kinds is None or len(kinds) == config.num_hidden_layers


def test_unknown_name_is_refused_with_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "config", "gpt-5", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vllm-sim: error: model is 'gpt-5'; allowed: gpt-oss-20b, ")


def test_bytes_of_latent_attention_are_not_guessed(tmp_path: Path) -> None:
    write_config("kimi-k2", tmp_path / "kimi")
    with pytest.raises(ValueError, match="a token of latent attention has no keys and values"):
        kv_bytes_a_token(str(tmp_path / "kimi"))
    write_config("llama-3.1-8b", tmp_path / "llama")
    assert kv_bytes_a_token(str(tmp_path / "llama")) == 2 * 32 * 8 * 128 * 2


@pytest.mark.parametrize("name", known_models())
def test_config_json_says_whether_layers_keep_less(name: str, tmp_path: Path) -> None:
    write_config(name, tmp_path / name)
    everything = {"llama-3.1-8b", "qwen3-8b", "glm-4.6", "glm-4.7-flash", "kimi-k2", "deepseek-v3.2"}
    assert (keeps_less(str(tmp_path / name)) is None) == (name in everything)


def test_a_window_that_is_not_used_is_none(tmp_path: Path) -> None:
    values = {"sliding_window": 32768, "use_sliding_window": False, "layer_types": ["full_attention"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert keeps_less(str(tmp_path)) is None


def test_another_configuration_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["model", "config", "gpt-oss-20b", "--out", str(tmp_path)]
    assert main(arguments) == main(arguments) == 0
    (tmp_path / "config.json").write_text("{}")
    assert main(arguments) == 1
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"
