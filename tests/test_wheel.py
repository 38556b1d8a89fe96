"""The wheel holds the library alone, and its light half works where neither vLLM nor torch is installed.

The environment of these tests has the wheel and what it declares, linked out of the environment that runs them; other
versions of Python get theirs from the package index.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from collections import Counter
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest
from packaging.requirements import Requirement

from vllm_sim.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
OTHERS = ("3.12", "3.13")
ABSENT = ("vllm", "torch", *(module for modules in EXTRAS.values() for module in modules))


class Light:
    """An environment with the wheel, and a folder to work in that knows nothing of the sources."""

    def __init__(self, python: Path, folder: Path):
        self.python, self.folder = python, folder
        folder.mkdir()
        rows = [
            {"hash_ids": [*range(i % 40, i % 40 + 6), 1000 + i], "input_length": 112, "hash_block_size": 16}
            | {"output_length": 20, "timestamp": 10 * i, "session_id": i % 40}
            for i in range(400)
        ]
        self.write("hashes.jsonl", rows)
        self.write(
            "tokens.jsonl", [{"prompt_token_ids": [*range(40), i % 3], "response_token_ids": [1]} for i in range(9)]
        )
        self.write("texts.jsonl", [{"prompt": "hehe", "response": "hahaha!"}])
        (folder / "mix.toml").write_text(
            'seed = 1\n[sources.a]\nkind = "trace"\npath = "hashes.jsonl"\nsessions = 20\n'
            'arrivals = { kind = "poisson", sessions_per_s = 1.0 }\n'
        )

    def write(self, name: str, rows: list[dict[str, object]]) -> None:
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `vllm-sim`; a hub that is asked does not answer."""
        return self.run("vllm-sim", *words)

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment."""
        environment = {"PATH": os.defpath, "HOME": str(self.folder), "HF_ENDPOINT": "http://127.0.0.1:9"}
        command = [self.python.with_name(program), *words]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    def done(self, *words: str) -> str:
        """What a command prints that has to succeed."""
        run = self(*words)
        assert run.returncode == 0, run.stderr
        return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "vllm_sim", folder / "vllm_sim", ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-build-isolation", "--no-deps", "-w", str(folder / "dist"), str(folder))
    return next((folder / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Light:
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    for name in declared(wheel):
        link_distribution(name, site)
    pip("--python", str(python), "install", "--no-deps", str(wheel))
    return Light(python, folder / "work")


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(file.read(name)).get_all("Requires-Dist", [])


def declared(wheel: Path) -> set[str]:
    """What an installation of the wheel brings, without extras."""
    left, found = requirements(wheel), set[str]()
    while left:
        requirement = Requirement(left.pop())
        if requirement.name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(requirement.name)
            left += distribution(requirement.name).requires or []
    return found


def link_distribution(name: str, site: Path) -> None:
    found = distribution(name)
    for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(found.locate_file(top))).resolve())


def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"vllm_sim"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "vllm_sim").rglob("*.py")}
    held = {name for name in names if name.startswith("vllm_sim/")}
    page = {name for name in held if name.startswith("vllm_sim/plots/vega/")}
    own = {f"vllm_sim/{name}" for name in ("py.typed", "plots/page.html", "plots/ladder.js", "models/known.toml")}
    assert held == sources | page | own
    assert {Path(name).name.partition(".")[0] for name in page} == {"vega", "vega-lite", "vega-interpreter", "LICENSE"}


def test_every_extra_that_a_message_names_exists(wheel: Path) -> None:
    found: dict[str, set[str]] = {name: set() for name in EXTRAS}
    for text in requirements(wheel):
        requirement = Requirement(text)
        for extra in found:
            if requirement.marker and requirement.marker.evaluate({"extra": extra}):
                found[extra].add(requirement.name.replace("-", "_"))
    assert {
        name: found[name] <= set(modules) and bool(found[name]) for name, modules in EXTRAS.items()
    } == dict.fromkeys(EXTRAS, True)


def test_no_package_has_more_than_15_percent_of_the_lines() -> None:
    """Lines of the modules of a folder; a package within it counts for itself."""
    lines: Counter[Path] = Counter()
    for path in (ROOT / "vllm_sim").rglob("*.py"):
        lines[path.parent] += len(path.read_text(encoding="utf-8").splitlines())
    package, most = lines.most_common(1)[0]
    assert most < 0.15 * lines.total(), f"{package}: {most:,} of {lines.total():,} lines"


def test_the_environment_has_what_the_wheel_declares_and_no_vllm(light: Light) -> None:
    script = (
        "import sys, vllm_sim, importlib.util as util; print(*filter(util.find_spec, sys.argv[1:])); print(vllm_sim)"
    )
    run = light.run("python", "-c", script, *ABSENT)
    found, file = run.stdout.splitlines()
    assert found == "", f"{found} is there too"
    assert str(light.python.parents[1]) in file


def follow(light: Light) -> None:
    """Every command of the light half, on traces without text."""
    assert "400 records, 0 faults" in light.done("trace", "validate", "hashes.jsonl")
    assert json.loads(light.done("trace", "stats", "hashes.jsonl", "--json"))["requests"] == 400
    assert json.loads(light.done("trace", "stats", "tokens.jsonl", "--json"))["requests"] == 9
    assert "20 sessions" in light.done("workload", "build", "mix.toml", "--out", "mix.jsonl")
    light.done("trace", "convert", "--from", "native", "tokens.jsonl", "anonymous.jsonl", "--anonymise")
    sweep = ("sweep", "hashes.jsonl", "mix.jsonl", "--out", "rows.jsonl", "--capacities", "60,120,unlimited", "--json")
    rows = [json.loads(line) for line in light.done(*sweep).splitlines()]
    assert len(rows) == 6
    assert {row["model"] for row in rows} == {None}
    raw = ("sweep", "hashes.jsonl", "--out", "raw.jsonl", "--raw-blocks", "--capacities", "100,all", "--json")
    assert len(light.done(*raw).splitlines()) == 2
    assert json.loads(light.done("replay", "tokens.jsonl", "--out", "run", "--backend", "fast", "--json"))["hit_tokens"]
    light.done("plot", "rows.jsonl", "--out", "plots", "--html", "page.html")
    assert list((light.folder / "plots").glob("*.png"))
    assert '"trace":"hashes"' in (light.folder / "page.html").read_text()


def test_the_first_result_takes_under_15_seconds_of_a_cpu(light: Light) -> None:
    begin = getrusage(RUSAGE_CHILDREN)
    light.done("replay", "hashes.jsonl", "--out", "first", "--backend", "fast", "--capacity-blocks", "60")
    end = getrusage(RUSAGE_CHILDREN)
    assert end.ru_utime - begin.ru_utime + end.ru_stime - begin.ru_stime < 15


def test_traces_without_text_need_neither_a_model_nor_vllm(light: Light) -> None:
    follow(light)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("replay hashes.jsonl --out run", 'pip install "vllm-sim[engine]", or another build of it; `--backend fast`'),
        ("sweep hashes.jsonl --out new.jsonl --backend blockpool", 'pip install "vllm-sim[engine]"'),
        ("sweep hashes.jsonl --out new.jsonl --ray auto", 'ray is not installed: pip install "vllm-sim[ray]"'),
        ("record --upstream http://localhost:1 --out r.jsonl", 'is not installed: pip install "vllm-sim[record]"'),
        ("model export --out model", 'llama_models is not installed: pip install "vllm-sim[model]"'),
        (
            "replay texts.jsonl --out run --backend fast",
            "texts.jsonl, line 1: a text needs a tokenizer; allowed: --model",
        ),
        ("trace stats texts.jsonl", "texts.jsonl, line 1: a text needs a tokenizer; allowed: --model FOLDER"),
        ("sweep hashes.jsonl --out new.jsonl --capacities 1GiB", "a capacity in bytes needs a model; allowed: --model"),
    ],
)
def test_what_is_missing_is_named_in_one_line_with_what_to_do(light: Light, words: str, reason: str) -> None:
    start = time.monotonic()
    run = light(*words.split())
    assert run.returncode == 1
    assert run.stderr.startswith("vllm-sim: error: ")
    assert len(run.stderr.splitlines()) == 1, run.stderr
    assert reason in run.stderr
    assert time.monotonic() - start < 60  # nobody waits for a hub


def pythons(version: str) -> Iterator[Path]:
    if path := shutil.which(f"python{version}"):
        yield Path(path)
    yield from sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))


@pytest.mark.slow
@pytest.mark.parametrize("version", OTHERS)
def test_the_light_half_works_under_other_versions_of_python(version: str, wheel: Path, tmp_path: Path) -> None:
    found = next((path for path in pythons(version) if not subprocess.call([path, "-c", ""], stderr=-3)), None)
    if found is None:
        pytest.skip(f"there is no Python {version}")
    subprocess.run([found, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip("--python", str(python), "install", str(wheel))
    follow(Light(python, tmp_path / "work"))
