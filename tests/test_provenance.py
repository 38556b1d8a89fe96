"""A fingerprint changes with the code that makes a row, with vLLM's version where vLLM runs, and with nothing else."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.making import small_trace
from vllm_sim import sources
from vllm_sim.eviction.policies.lru import Lru
from vllm_sim.eviction.registry import find_policy
from vllm_sim.provenance import file_sha256, fingerprint, load_entry, reached
from vllm_sim.replay.backends import BACKENDS, CACHE_OF_GROUPS

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "exported_models" / "Llama-3.2-1B-Instruct"
LRU = "vllm_sim.eviction.policies.lru:Lru"
PACKAGES = ("vllm_sim", "milestone2_code", "milestone3_code")
ROW = "vllm_sim.sweep.runs:make_row"
CHAT, MIXED = (f"milestone{number}_code.study.rows:rows_of" for number in (2, 3))
MAKERS = {
    **{name: [ROW, entry, LRU] for name, entry in BACKENDS.items()},
    "chat": [CHAT, "milestone2_code.study.cache_rows:cache_row", BACKENDS["fast"], LRU],
    "chat engine": [CHAT, "milestone2_code.study.timed:engine_row", BACKENDS["engine"], LRU],
    "mixed": [MIXED, "milestone3_code.study.effects:bytes_row", LRU],
    "mixed engine": [MIXED, "milestone3_code.study.timed:engine_rows", BACKENDS["engine"], LRU],
}
"""What the rows of each kind are made by, under LRU."""
UPSTREAM = {"engine", "blockpool", "chat engine", "mixed engine"}

ASK = """
import json, sys
from vllm_sim.provenance import fingerprint
print(json.dumps({name: fingerprint(*makers) for name, makers in json.loads(sys.argv[1]).items()}))
"""
EDIT = """
import json, sys
from functools import cache
from pathlib import Path
from vllm_sim import provenance
makers = json.loads(sys.argv[1])
ask = lambda: {kind: provenance.fingerprint(*names) for kind, names in makers.items()}
read, edited = provenance._read, ""
provenance._locate = cache(provenance._locate)
provenance._read = lambda name, at: (read.__wrapped__ if str(at.file) == edited else read)(name, at)
ask()
for edited in sys.argv[2:]:
    text = Path(edited).read_bytes()
    Path(edited).write_bytes(text + b"\\nADDED = 1\\n")
    provenance._fingerprint.cache_clear()
    print(json.dumps(ask()))
    Path(edited).write_bytes(text)
"""
"""Edits one file after the other, and reads that one again; where the files are and what the others say is known."""


def python(script: str, *arguments: str, path: list[Path], **environment: str) -> str:
    line = [sys.executable, "-P", "-c", script, *arguments]  # -P: the working directory holds a package too
    values = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | environment
    done = subprocess.run(line, env=values, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(*path: Path) -> dict[str, str]:
    """The fingerprint of each kind of row, in a fresh process."""
    return json.loads(python(ASK, json.dumps(MAKERS), path=list(path)))


def modules(folder: Path) -> dict[str, Path]:
    """All modules of the packages in a folder; the scripts of a study are none."""
    found = [file for name in PACKAGES for file in (folder / name).rglob("*.py")]
    files = {file: file.relative_to(folder).with_suffix("").parts for file in found}
    files = {file: parts for file, parts in files.items() if parts[0] == "vllm_sim" or "study" in parts}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): file for file, parts in files.items()}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package and of the studies."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=ignored)
    return tmp_path / "copy"


def test_each_module_that_a_row_reaches_changes_its_fingerprint_and_no_other(copy: Path) -> None:
    before, files = ask(copy), modules(copy)
    found = {kind: reached(*makers) for kind, makers in MAKERS.items()}
    names = sorted(set().union(*found.values()))
    lines = python(EDIT, json.dumps(MAKERS), *(str(files[name]) for name in names), path=[copy]).splitlines()
    for name, after in zip(names, map(json.loads, lines), strict=True):
        changed = {kind for kind in MAKERS if after[kind] != before[kind]}
        assert changed == {kind for kind in MAKERS if name in found[kind]}, name
    others = set(files) - set(names)
    assert len(others) > len(names) / 2
    for name in others:
        files[name].write_bytes(files[name].read_bytes() + b"\nADDED = 1\n")
    assert ask(copy) == before


def test_rows_do_not_depend_on_arguments_plots_other_policies_nor_other_backends() -> None:
    found = {kind: reached(*makers) for kind, makers in MAKERS.items()}
    for names in found.values():
        assert not {name for name in names if name.startswith(("vllm_sim.cli", "report.numbers"))}
        assert not names & {
            f"vllm_sim.{name}" for name in ("replay.files", "replay.timeline", "eviction.policies.hybrid")
        }
        assert not names & {f"vllm_sim.sweep.{name}" for name in ("grid", "results", "runner")}
        assert not {name for name in names if name.startswith(("vllm_sim.plots", "milestone2_code.study.plan"))}
    assert not {name for name in found["fast"] if name.startswith("vllm_sim.engine")}
    assert "vllm_sim.engine.backends.driver" not in found["blockpool"]
    assert "vllm_sim.eviction.policies.belady" not in found["fast"]


def test_comments_docstrings_and_formatting_change_nothing(copy: Path) -> None:
    before = ask(copy)
    for file in modules(copy).values():
        tree = ast.parse(file.read_text())
        body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
        text = ast.unparse(ast.Module(body, []))
        file.write_text(f'"""Another text."""\n# A comment.\n{text}\n\n\n# The end.\n')
    assert ask(copy) == before


def test_a_policy_that_is_added_to_the_registry_changes_no_row(copy: Path) -> None:
    before, file = ask(copy), copy / "vllm_sim" / "eviction" / "names.py"
    text = file.read_text()
    file.write_text(text.replace("POLICIES = {\n", 'POLICIES = {\n    "new": "vllm_sim.eviction.new:New",\n'))
    assert file.read_text() != text
    assert ask(copy) == before


def test_an_installed_copy_counts_as_one_in_a_checkout_does(copy: Path, tmp_path: Path) -> None:
    before = ask(copy)
    installed = tmp_path / "site-packages"
    copy.rename(installed)
    assert ask(installed) == before
    file = installed / "vllm_sim" / "replay" / "rows.py"
    file.write_bytes(file.read_bytes() + b"\nADDED = 1\n")
    after = ask(installed)
    assert all(after[kind] != before[kind] for kind in MAKERS)


def test_another_vllm_is_another_row_where_vllm_runs(tmp_path: Path) -> None:
    before = ask(ROOT)
    info = tmp_path / "vllm-99.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 99.0\n")
    after = ask(tmp_path, ROOT)
    assert {kind for kind in MAKERS if after[kind] != before[kind]} == UPSTREAM


LOADED = """
import json, os, sys
from pathlib import Path
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
from vllm_sim.replay.config import RunConfig
from vllm_sim.sweep.runs import GridRun, make_row, row_code
values = json.loads(sys.argv[2])
config = RunConfig(block_size=4, capacity_blocks=40, **values)
row = make_row(GridRun(Path(sys.argv[1]), config))
names = [name for name, module in sys.modules.items() if name.partition(".")[0] == "vllm_sim"]
print(json.dumps([row_code(config.backend, config.policy), names]))
"""


@pytest.mark.parametrize(
    ("backend", "policy"),
    [
        ("fast", "lru"),
        ("fast", "belady"),
        pytest.param("blockpool", "arc", marks=pytest.mark.slow),
        ("engine", "workload_aware"),
    ],
)
def test_every_module_that_a_run_loads_counts(tmp_path: Path, backend: str, policy: str) -> None:
    values = {"backend": backend, "policy": policy, "model": str(MODEL)}
    values |= {"concurrency": 2} if backend == "engine" else {}
    said = python(LOADED, str(small_trace(tmp_path)), json.dumps(values), path=[ROOT])
    code, names = json.loads(said.splitlines()[-1])
    of_groups = [CACHE_OF_GROUPS[backend]] if backend == "blockpool" else []
    makers = load_entry(ROW), BACKENDS[backend], *of_groups, find_policy(policy)
    assert code == fingerprint(*makers)
    assert set(names) <= reached(*makers)
    assert f"vllm_sim.eviction.policies.{policy}" in names


STUDY = """
import json, os, sys
from pathlib import Path
from milestone3_code.study.rows import rows_of
from milestone3_code.study.study import Point, Study
folder, experiment, policy, detail = Path(sys.argv[1]), *sys.argv[2:]
study = Study(configs=folder / "mixes", data=folder / "data", model={model!r}, results=folder, mixes=("tiny",))
policies = ("lru", "arc", "belady") if experiment == "seeds" else ()
rows_of(study, Point(experiment, "tiny", capacity="10%", policy=policy, detail=detail, policies=policies))
print(json.dumps([name for name in sys.modules if name.partition(".")[0] == "vllm_sim"]))
"""


@pytest.mark.parametrize(
    ("experiment", "policy", "detail"),
    [("loss", "belady", ""), ("seeds", "lru", "10% 30%"), ("bytes", "hybrid", ""), ("windows", "lru", "burst")],
)
def test_every_module_that_a_point_of_study_two_loads_counts(
    tmp_path: Path, experiment: str, policy: str, detail: str
) -> None:
    from milestone3_code.study.run import makers
    from milestone3_code.study.study import Point
    from tests.milestone3.making import make_study

    make_study(tmp_path)
    script = STUDY.format(model=str(MODEL))
    names = json.loads(python(script, str(tmp_path), experiment, policy, detail, path=[ROOT]).splitlines()[-1])
    assert set(names) <= reached(
        *makers(Point(experiment, "tiny", policy=policy, policies=("arc", "belady") if experiment == "seeds" else ()))
    )


MINE = """from helper import SIGN
from vllm_sim.eviction.policy import Policy


class Mine(Policy):
    def rank(self, node, copies, stamp):
        return 0, SIGN * stamp
"""


def test_a_sweep_replaces_rows_that_other_code_made(copy: Path, tmp_path: Path) -> None:
    trace, out = small_trace(tmp_path), tmp_path / "out.jsonl"
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "helper.py").write_text("SIGN = 1\n")
    options = ["--policies", "mine:Mine", "--capacities", "40", "--block-sizes", "4", "--jobs", "1"]

    def hits() -> list[int]:
        script = "import sys; from vllm_sim.cli import main; sys.exit(main(sys.argv[1:]))"
        command = ["sweep", str(trace), "--out", str(out), "--model", str(MODEL), *options]
        (tmp_path / "out.run.json").unlink(missing_ok=True)
        python(script, *command, path=[copy, tmp_path], XDG_CACHE_HOME=str(tmp_path / "cache"))
        return [json.loads(line)["hit_tokens"] for line in out.read_text().splitlines()]

    def runs() -> int:
        return json.loads((tmp_path / "out.run.json").read_text())["runs"]

    (first,) = hits()
    assert first > 0
    assert (hits(), runs()) == ([first], 0)
    (tmp_path / "helper.py").write_text("SIGN = -1  # most recent first\n")
    (second,) = hits()
    assert (second != first, runs()) == (True, 1)
    rows = copy / "vllm_sim" / "replay" / "summary.py"
    text = rows.read_text()
    rows.write_text(text.replace("hit_tokens=int(hits)", "hit_tokens=0"))
    assert rows.read_text() != text
    assert hits() == [0]


def test_a_class_without_a_file_never_has_the_same_fingerprint() -> None:
    space: dict[str, object] = {"__name__": "nowhere"}
    exec("class Nowhere: pass", space)
    made = space["Nowhere"]
    assert isinstance(made, type)
    assert fingerprint(made) != fingerprint(made)
    assert fingerprint(Lru) == fingerprint(Lru)


COMMIT = "from vllm_sim.provenance import commit; print(commit())"


def test_a_commit_is_dirty_where_sources_differ_and_not_where_results_do(copy: Path) -> None:
    def git(*words: str) -> str:
        line = ["git", "-C", str(copy), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()

    def found() -> str:
        return python(COMMIT, path=[copy], PYTHONDONTWRITEBYTECODE="1").strip()

    assert found() == "None"
    git("init", "-q")
    assert found() == "None"
    (copy / "rows.jsonl").write_text("{}\n")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    head = git("rev-parse", "HEAD")
    assert found() == head
    (copy / "rows.jsonl").write_text("[]\n")
    assert found() == head
    (copy / "plan.toml").write_text("seed = 1\n")
    assert found() == f"{head}-dirty"


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of what counts of sources, as it is when nothing has been read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sources, "_written", [0])
    sources._kept.cache_clear()
    yield sources._kept_file()
    sources._kept.cache_clear()


@pytest.mark.parametrize("damage", [None, b"", b'{"x": 1}', b"no JSON"])
def test_what_counts_of_a_file_is_read_from_the_disk_where_it_is_whole(
    kept: Path, damage: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = []
    parse = sources._parse
    monkeypatch.setattr(sources, "_parse", lambda *found: parsed.append(found) or parse(*found))
    first = sources.read_source("a.b", "a", b"from . import c\n")
    sources.keep_sources()
    assert kept.is_file()
    if damage is not None:
        kept.write_bytes(damage)
    sources._kept.cache_clear()
    assert sources.read_source("a.b", "a", b"from . import c\n") == first
    assert first.imports == {"a.c"}
    assert len(parsed) == (1 if damage is None else 2)


def test_an_edited_file_is_not_taken_for_the_one_that_was_kept(kept: Path) -> None:
    before = sources.read_source("a.b", "a", b"x = 1\n")
    sources.keep_sources()
    sources._kept.cache_clear()
    assert sources.read_source("a.b", "a", b"x = 2\n").digest != before.digest
