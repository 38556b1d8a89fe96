"""Upstream's own tests on cache and scheduler: plain, in simulator mode, and with our block pool under LRU.

They are run from vLLM's source distribution, in an environment with that version (the second one by default; a kernel
is not needed, and without kernels some fail in all runs); the tests that pass must be the same each time.
No model hub is needed: configurations of the models that they name are written here, without weights, and with the
exported model's tokenizer. A test that needs more of a model (its image processor) fails in all runs. In simulator mode
the platform refuses what it could not show truly; the tests that ask for it are counted and named apart, and in a run
of their own, with the refusals lifted, they must pass like the others.

usage: python -m parity.upstream_tests [--sdist FILE] [FILE...]      --sdist: else pip downloads it
Without FILE (test_scheduler, ...) all of them are run, and results/upstream_tests.json is written. Another version than
the pinned one: `python -m parity.upgrade`.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from rich.console import Console

from parity.model import EXPORTED
from parity.results import update

ROOT = Path(__file__).parents[1]
PINNED = (ROOT / "vllm" / "VERSION").read_text(encoding="utf-8").strip()
"""The version of vLLM that the project installs by default."""
SECOND = ROOT / ".venv-parity"
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
TRACE = "trace.jsonl"
"""In the folder where the tests are run."""
RUNS = {
    "plain": {"VLLM_PLUGINS": "", "VLLM_TARGET_DEVICE": "cpu"},
    "simulator mode": {"VLLM_SIM_TRACE_PATH": TRACE},
    "simulator mode, refusals lifted": {"VLLM_SIM_TRACE_PATH": TRACE, "VLLM_SIM_TEST_LIFTED": "1"},
    "our pool, LRU": {"VLLM_SIM_TEST_POOL": "1", "VLLM_TARGET_DEVICE": "cpu"},
}
"""A build without kernels finds no platform by itself; with kernels for a CPU it would be the same one."""
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


class Place(NamedTuple):
    """Where a version's tests are run."""

    python: Path
    """The interpreter of an environment with that version, this package and pytest."""
    folder: Path
    """For the source distribution, the tests, a model hub, reports and logs."""
    version: str


class Run(NamedTuple):
    """What pytest said of a run."""

    passed: set[str]
    failed: set[str]
    refused: dict[str, str]
    """What the platform refused to simulate, by test."""
    pools: str
    """How many block pools were ours."""


def download(place: Place) -> Path:
    """vLLM's source distribution, once; pip looks at its metadata, for which no kernel is built."""
    path = place.folder / f"vllm-{place.version}.tar.gz"
    if not path.exists():
        environment = os.environ | {
            "VLLM_TARGET_DEVICE": "empty",
            "VLLM_VERSION_OVERRIDE": place.version,
            "PATH": f"{place.python.parent}:{os.environ['PATH']}",
        }
        options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "vllm", "--dest", str(place.folder))
        command = [place.python, "-m", "pip", "download", *options, f"vllm=={place.version}"]
        subprocess.run(command, env=environment, check=True)
    return path


def unpack(sdist: Path, folder: Path) -> None:
    """The folder `tests` alone: next to it the sources would hide the installed vLLM."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            member.name = member.name.partition("/")[2]
            if member.name.startswith("tests/"):
                archive.extract(member, folder, filter="data")


def make_hub(place: Place) -> None:
    """A model hub's cache that holds configurations and a tokenizer; and a trace, which no test asks for."""
    hub = place.folder / "hub"
    subprocess.run([place.python, "-c", MAKE_MODELS, hub], check=True)
    for repository in hub.iterdir():
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text("0")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EXPORTED / name, repository / "snapshots" / "0")
    (place.folder / TRACE).write_text(
        '{"prompt_token_ids": [1], "response_token_ids": [2], "finish_reason": "length"}\n', encoding="utf-8"
    )


def run(place: Place, name: str, files: Sequence[str]) -> None:
    """Runs the tests in one of the ways of RUNS; leaves pytest's report, and next to it a log of what it printed."""
    folder = place.folder
    report, log = folder / f"{name}.xml", folder / f"{name}.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")}
    environment |= {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | RUNS[name]
    command = [place.python, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    command += ["-p", "parity.upstream_pool", "-c", os.devnull, "--rootdir", folder]  # not this project's settings
    command += [f"--junit-xml={report}", *(f"tests/v1/core/{file}.py" for file in files)]
    report.unlink(missing_ok=True)
    with log.open("w") as file:
        subprocess.run(command, cwd=folder, env=environment, stdout=file, stderr=file)
    if not report.exists():
        raise SystemExit(f"pytest did not finish:\n{log.read_text()[-3000:]}")


def read(place: Place, name: str) -> Run:
    """What a run has left."""
    report, log = place.folder / f"{name}.xml", place.folder / f"{name}.log"
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


def run_all(place: Place, files: Sequence[str] = FILES, sdist: Path | None = None) -> dict[str, dict[str, Any]]:
    """Runs the tests in each way, prints what came out, and returns it as `about` has it, by way."""
    place.folder.mkdir(parents=True, exist_ok=True)
    unpack(sdist or download(place), place.folder)
    make_hub(place)
    console = Console(width=150, highlight=False)
    runs: dict[str, dict[str, Any]] = {}
    plain = None
    for name in RUNS:
        run(place, name, files)
        found = read(place, name)
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
    return runs


def is_same(runs: dict[str, dict[str, Any]]) -> bool:
    """Whether tests passed, and the same ones in each way."""
    return bool(runs["plain"]["passed"]) and not any(row["differences"] for row in runs.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m parity.upstream_tests", description="vLLM's own tests.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="such as test_scheduler (default: all)")
    parser.add_argument("--sdist", type=Path, metavar="FILE", help=f"vllm-{PINNED}.tar.gz (default: pip downloads it)")
    options = parser.parse_args()
    runs = run_all(Place(SECOND / "bin" / "python", SECOND / "upstream", PINNED), options.files or FILES, options.sdist)
    if not options.files:
        update("upstream_tests", {"vllm": PINNED, "files": FILES, "runs": runs})
    print("the same tests pass" if is_same(runs) else "NOT the same tests pass")
    return 0 if is_same(runs) else 1


if __name__ == "__main__":
    sys.exit(main())
