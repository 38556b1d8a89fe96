"""Upstream's own tests on cache and scheduler: plain, with the plugin active, and with our block pool under LRU.

They are run from vLLM's source distribution in the second environment; the tests that pass must be the same three
times. No model hub is needed: configurations of the four models that they name are written here, without weights. A
test that needs more of a model (its processor, its weights) or a GPU fails in all three runs.

usage: python -m parity.upstream_tests [SDIST [FILE...]]      SDIST: vllm-0.32.0.tar.gz, else pip downloads it
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

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
RUNS = {
    "plain": {"VLLM_PLUGINS": ""},
    "plugin active": {"VLLM_SIM_TRACE_PATH": str(ROOT / "trace.jsonl")},
    "our pool, LRU": {"VLLM_SIM_TEST_POOL": "1"},
}
REFUSAL = "vllm_sim cannot simulate"
"""How the platform refuses what a simulator could not show truly: KV connectors, MLA, sliding windows."""
MAKE_MODELS = """
import sys
from transformers import LlavaConfig, OPTConfig, Qwen2Config, Qwen3Config
OPTConfig(architectures=["OPTForCausalLM"]).save_pretrained(sys.argv[1] + "/models--facebook--opt-125m/snapshots/0")
Qwen3Config(
    architectures=["Qwen3ForCausalLM"], hidden_size=1024, intermediate_size=3072, num_hidden_layers=28,
    num_attention_heads=16, num_key_value_heads=8, head_dim=128, max_position_embeddings=40960,
).save_pretrained(sys.argv[1] + "/models--Qwen--Qwen3-0.6B/snapshots/0")
Qwen2Config(
    architectures=["Qwen2ForCausalLM"], hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
    num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=32768,
).save_pretrained(sys.argv[1] + "/models--Qwen--Qwen1.5-7B/snapshots/0")
LlavaConfig(architectures=["LlavaForConditionalGeneration"]).save_pretrained(
    sys.argv[1] + "/models--llava-hf--llava-1.5-7b-hf/snapshots/0"
)
"""


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
    """A model hub's cache that holds configurations and nothing else."""
    hub = FOLDER / "hub"
    subprocess.run([PYTHON, "-c", MAKE_MODELS, hub], check=True)
    for repository in hub.iterdir():
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text("0")


def run(name: str) -> tuple[set[str], set[str], str]:
    """The tests that pass, those that fail by the platform's refusal, and what the last line tells of pools."""
    report = FOLDER / f"{name}.xml"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")}
    environment |= {"HF_HUB_CACHE": str(FOLDER / "hub"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)} | RUNS[name]
    command = [PYTHON, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "-p", "parity.upstream_pool"]
    command += ["-c", os.devnull, "--rootdir", FOLDER]  # not the settings of this project
    command += [f"--junit-xml={report}", *(f"tests/v1/core/{file}.py" for file in sys.argv[2:] or FILES)]
    report.unlink(missing_ok=True)
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True)
    if not report.exists():
        raise SystemExit(f"pytest did not finish:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    (FOLDER / f"{name}.log").write_text(done.stdout)
    pools = next((line for line in done.stdout.splitlines() if line.startswith("pools:")), "")
    passed, refused = set(), set()
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.get('classname')}::{case.get('name')}"
        failures = [child for child in case if child.tag in ("failure", "error", "skipped")]
        if not failures:
            passed.add(test)
        elif any(REFUSAL in "".join(child.itertext()) for child in failures):
            refused.add(test)
    return passed, refused, pools


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    unpack(Path(sys.argv[1]) if len(sys.argv) > 1 else download())
    make_hub()
    console = Console(width=150)
    plain: set[str] = set()
    differs = False
    for name in RUNS:
        passed, refused, pools = run(name)
        console.print(f"{name:14} {len(passed)} tests pass; {len(refused)} refused; {pools}", highlight=False)
        plain = plain or passed
        for test in sorted(plain ^ passed):
            differs = differs or test not in refused
            found = "refused" if test in refused else "passes only" if test in passed else "does not pass"
            console.print(f"    {found} here: {test}", markup=False)
    console.print("the same tests pass" if not differs and plain else "NOT the same tests pass")
    return 1 if differs or not plain else 0


if __name__ == "__main__":
    sys.exit(main())
