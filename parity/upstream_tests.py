"""Upstream's own tests on cache and scheduler: plain, in simulator mode, and with our block pool under LRU.

They are run from vLLM's source distribution in the second environment; the tests that pass must be the same each time.
No model hub is needed: configurations of the models that they name are written here, without weights, and with the
exported model's tokenizer. A test that needs more of a model (its image processor) fails in all runs. In simulator mode
the platform refuses what it could not show truly; the tests that ask for it are counted and named apart, and in a run
of their own, with the refusals lifted, they must pass like the others.

usage: python -m parity.upstream_tests [SDIST [FILE...]]      SDIST: vllm-0.32.0.tar.gz, else pip downloads it
Without FILE (test_scheduler, ...) all of them are run, and results/upstream_tests.json is written.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from rich.console import Console

from parity.model import EXPORTED
from parity.results import update

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-parity" / "bin" / "python"
FOLDER = ROOT / ".venv-parity" / "upstream"
VERSION = "0.32.0"
FILES = (
    "test_prefix_caching",
    "test_kv_cache_utils",
    "test_single_type_kv_cache_manager",
    "test_kv_cache_metrics",
    "test_prefix_replay",
    "test_deferred_block_free",
    "test_scheduler",
    "test_async_scheduler",
    "test_priority_scheduler_random",
    "test_priority_preemption_bug",
    "test_swa_inflight_window_free",
)
TRACE = FOLDER / "trace.jsonl"
RUNS = {
    "plain": {"VLLM_PLUGINS": ""},
    "simulator mode": {"VLLM_SIM_TRACE_PATH": str(TRACE)},
    "simulator mode, refusals lifted": {"VLLM_SIM_TRACE_PATH": str(TRACE), "VLLM_SIM_TEST_LIFTED": "1"},
    "our pool, LRU": {"VLLM_SIM_TEST_POOL": "1"},
}
REFUSAL = re.compile(r"(?:vllm_sim cannot simulate|Model Runner V1 does not support:) ([^;\[]*)[;\[]")
"""How our platform refuses, and upstream on a platform that is not its own; the group is what."""
MAKE_MODELS = """
import sys
from transformers import LlavaConfig, OPTConfig, Qwen2Config, Qwen3Config
known = {"dtype": "float16", "tie_word_embeddings": False}  # else vLLM looks for them in weights, and tries again
models = {
    "facebook--opt-125m": OPTConfig(architectures=["OPTForCausalLM"], **known),
    "facebook--opt-350m": OPTConfig(
        architectures=["OPTForCausalLM"], hidden_size=1024, ffn_dim=4096, num_hidden_layers=24,
        num_attention_heads=16, word_embed_proj_dim=512, do_layer_norm_before=False, **known,
    ),
    "Qwen--Qwen3-0.6B": Qwen3Config(
        architectures=["Qwen3ForCausalLM"], hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
        num_attention_heads=16, num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, **known,
    ),
    "Qwen--Qwen1.5-7B": Qwen2Config(
        architectures=["Qwen2ForCausalLM"], hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=32768, **known,
    ),
    "llava-hf--llava-1.5-7b-hf": LlavaConfig(architectures=["LlavaForConditionalGeneration"], **known),
}
for name, config in models.items():
    config.save_pretrained(f"{sys.argv[1]}/models--{name}/snapshots/0")
"""


class Run(NamedTuple):
    """What pytest told of a run."""

    passed: set[str]
    failed: set[str]
    refused: dict[str, str]
    """What the platform refused to simulate, by test."""
    pools: str
    """How many block pools were ours."""


def download() -> Path:
    """vLLM's source distribution, once; pip looks at its metadata, for which no kernel is built."""
    path = FOLDER / f"vllm-{VERSION}.tar.gz"
    if not path.exists():
        environment = os.environ | {
            "VLLM_TARGET_DEVICE": "empty",
            "VLLM_VERSION_OVERRIDE": VERSION,
            "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",
        }
        options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "vllm", "--dest", str(FOLDER))
        subprocess.run([PYTHON, "-m", "pip", "download", *options, f"vllm=={VERSION}"], env=environment, check=True)
    return path


def unpack(sdist: Path) -> None:
    """The folder `tests` alone: beside it the sources would hide the installed vLLM."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            member.name = member.name.partition("/")[2]
            if member.name.startswith("tests/"):
                archive.extract(member, FOLDER, filter="data")


def make_hub() -> None:
    """A model hub's cache that holds configurations and a tokenizer; and a trace, which no test asks for."""
    hub = FOLDER / "hub"
    subprocess.run([PYTHON, "-c", MAKE_MODELS, hub], check=True)
    for repository in hub.iterdir():
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text("0")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EXPORTED / name, repository / "snapshots" / "0")
    TRACE.write_text('{"prompt_token_ids": [1], "response_token_ids": [2], "finish_reason": "length"}\n')


def run(name: str) -> None:
    """Runs the tests in one of the ways of RUNS; leaves pytest's report, and beside it a log of what it printed."""
    report, log = FOLDER / f"{name}.xml", FOLDER / f"{name}.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")}
    environment |= {"HF_HUB_CACHE": str(FOLDER / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | RUNS[name]
    command = [PYTHON, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-p", "parity.upstream_pool"]
    command += ["-c", os.devnull, "--rootdir", FOLDER]  # not the settings of this project
    command += [f"--junit-xml={report}", *(f"tests/v1/core/{file}.py" for file in sys.argv[2:] or FILES)]
    report.unlink(missing_ok=True)
    with log.open("w") as file:
        subprocess.run(command, cwd=FOLDER, env=environment, stdout=file, stderr=file)
    if not report.exists():
        raise SystemExit(f"pytest did not finish:\n{log.read_text()[-3000:]}")


def read(name: str) -> Run:
    """What a run has left."""
    report, log = FOLDER / f"{name}.xml", FOLDER / f"{name}.log"
    pools = next((line for line in log.read_text().splitlines() if line.startswith("pools:")), "")
    found = Run(set(), set(), {}, pools.removeprefix("pools: "))
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{str(case.get('classname')).rpartition('.')[2]}::{case.get('name')}"
        failures = [child for child in case if child.tag in ("failure", "error", "skipped")]
        if not failures:
            found.passed.add(test)
        elif refusal := REFUSAL.search("".join(text for child in failures for text in child.itertext())):
            found.refused[test] = refusal[1].strip()
        else:
            found.failed.add(test)
    return found


def differences(plain: Run, other: Run) -> list[str]:
    """Tests that pass in one run alone, without those that were refused."""
    return sorted((plain.passed ^ other.passed) - set(other.refused))


def about(found: Run, plain: Run) -> dict[str, Any]:
    """A run's counts, and the tests that pass plain and were refused here, by what was refused."""
    refused: dict[str, list[str]] = {}
    for test in sorted(set(found.refused) & plain.passed):
        refused.setdefault(found.refused[test], []).append(test)
    counts = {"passed": len(found.passed), "failed": len(found.failed), "refused": len(found.refused)}
    return counts | {
        "pools": found.pools,
        "differences": differences(plain, found),
        "passed_plain_but_refused": refused,
    }


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    unpack(Path(sys.argv[1]) if len(sys.argv) > 1 else download())
    make_hub()
    console = Console(width=150, highlight=False)
    runs: dict[str, dict[str, Any]] = {}
    plain = None
    for name in RUNS:
        run(name)
        found = read(name)
        plain = plain or found
        row = runs[name] = about(found, plain)
        counts = ", ".join(f"{row[key]} {key}" for key in ("passed", "failed", "refused"))
        console.print(f"{name}: {counts}; pools: {found.pools}")
        for what, tests in row["passed_plain_but_refused"].items():
            console.print(f"    {len(tests)} that pass plain are refused here: {what}", markup=False)
        for test in row["differences"]:
            console.print(
                f"    {'passes only' if test in found.passed else 'DOES NOT PASS'} here: {test}", markup=False
            )
    if not sys.argv[2:]:
        update("upstream_tests", {"vllm": VERSION, "files": FILES, "runs": runs})
    is_same = plain is not None and bool(plain.passed) and not any(row["differences"] for row in runs.values())
    console.print("the same tests pass" if is_same else "NOT the same tests pass")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
