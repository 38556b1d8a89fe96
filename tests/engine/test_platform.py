"""vLLM is as it was installed, and runs on our platform exactly where a trace is named (each in a new interpreter)."""

import base64
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLATFORM = """
import sys
import vllm
from vllm.platforms import current_platform
current_platform.pre_register_and_update()
current_platform.validate_environ(hard_fail=False)
print(type(current_platform).__module__ + "." + type(current_platform).__name__, vllm.__file__)
"""


def run(code: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter in the repository's root, with these variables (None: without)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    environment |= {name: value for name, value in variables.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_with_the_variable_the_platform_is_ours_and_vllm_knows_the_variable(tmp_path: Path) -> None:
    result = run(PLATFORM, VLLM_SIM_TRACE_PATH=str(tmp_path / "read later.jsonl"))
    assert result.returncode == 0, result.stderr
    platform, file = result.stdout.splitlines()[-1].split(" ", 1)
    assert platform == "vllm_sim.engine.platform.ReplayPlatform"
    assert "site-packages" in Path(file).parts  # not the repository's folder vllm/
    assert "Unknown vLLM environment variable" not in result.stdout + result.stderr


@pytest.mark.parametrize("value", [None, pytest.param("", marks=pytest.mark.slow)])
def test_without_the_variable_the_platform_is_vllms_own_choice(value: str | None) -> None:
    result = run(PLATFORM, VLLM_SIM_TRACE_PATH=value)
    assert "ReplayPlatform" not in result.stdout
    assert result.stdout.splitlines()[-1].startswith("vllm.platforms."), result.stderr


def test_the_plugin_imports_nothing_of_vllm() -> None:
    code = (
        "import sys, vllm_sim, vllm_sim.engine.plugin as p; print(p.platform(), {'vllm', 'torch'} & set(sys.modules))"
    )
    assert run(code, VLLM_SIM_TRACE_PATH="t").stdout.strip() == "vllm_sim.engine.platform.ReplayPlatform set()"


def test_the_trace_layer_imports_neither_vllm_nor_torch_nor_transformers() -> None:
    code = "import sys, vllm_sim.trace.tokens; print({'vllm', 'torch', 'transformers'} & set(sys.modules))"
    assert run(code).stdout.strip() == "set()"


def test_every_file_of_the_installed_vllm_is_as_its_record_says() -> None:
    checked = 0
    for file in importlib.metadata.files("vllm") or []:
        if file.hash is None:
            continue  # RECORD itself, and compiled caches
        path = Path(str(file.locate()))
        digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value, path
        checked += 1
    assert checked > 2000


def test_no_file_was_added_to_the_installed_vllm() -> None:
    distribution = importlib.metadata.distribution("vllm")
    recorded = {Path(str(file.locate())) for file in distribution.files or []}
    folder = Path(str(distribution.locate_file("vllm")))
    assert {path for path in folder.rglob("*.py") if path not in recorded} == set()
