"""The workflow, the reusable action and the hooks name what exists, and the action's canary can fail."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
ACTION = yaml.safe_load((ROOT / ".github" / "actions" / "replay" / "action.yml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))


def steps() -> list[dict[str, Any]]:
    return [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_the_workflow_runs_targets_that_exist() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony
    targets = {target for step in steps() for target in re.findall(r"^make (\w+)", step.get("run", ""), re.MULTILINE)}
    assert {"lint", "test", "docs"} <= targets <= set(phony[1].split())


def test_the_workflow_gives_the_action_inputs_that_it_has() -> None:
    used = [step for step in steps() if step.get("uses") == "./.github/actions/replay"]
    assert used
    needed = {name for name, value in ACTION["inputs"].items() if value.get("required")}
    for step in used:
        assert needed <= set(step["with"]) <= set(ACTION["inputs"])


def test_what_the_workflow_tests_is_what_the_package_claims() -> None:
    versions = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text) == versions


def test_the_hooks_take_nothing_from_elsewhere() -> None:
    assert [repo["repo"] for repo in HOOKS["repos"]] == ["local"]
    assert {hook["language"] for hook in HOOKS["repos"][0]["hooks"]} == {"system"}


def test_the_hook_of_large_files_refuses_one(tmp_path: Path) -> None:
    hook = next(hook for hook in HOOKS["repos"][0]["hooks"] if hook["id"] == "large-files")
    small, large = tmp_path / "small", tmp_path / "large file"
    small.write_bytes(b"x")
    large.write_bytes(bytes(1_000_001))
    assert subprocess.run(["bash", "-c", f'{hook["entry"]} "$@"', "-", small], check=False).returncode == 0
    assert subprocess.run(["bash", "-c", f'{hook["entry"]} "$@"', "-", small, large], check=False).returncode == 1


@pytest.mark.parametrize(("characters", "code"), [(72, 0), (73, 1)])
def test_the_hook_of_messages_refuses_a_long_subject(tmp_path: Path, characters: int, code: int) -> None:
    hook = next(hook for hook in HOOKS["repos"][0]["hooks"] if hook["id"] == "subject")
    message = tmp_path / "message"
    message.write_text("x" * characters + "\n\n" + "y" * 100 + "\n")
    assert hook["stages"] == ["commit-msg"]
    assert subprocess.run(["bash", "-c", f'{hook["entry"]} "$@"', "-", message], check=False).returncode == code


def test_the_action_fails_where_the_hits_are_others(tmp_path: Path) -> None:
    (tmp_path / "vllm-sim" / "bin").mkdir(parents=True)
    (tmp_path / "vllm-sim" / "bin" / "vllm-sim").symlink_to(Path(sys.executable).parent / "vllm-sim")
    rows = [{"prompt_token_ids": [*range(9), row % 2], "output_length": 2} for row in range(6)]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = next(step["run"] for step in ACTION["runs"]["steps"] if step.get("id") == "replay")

    def run(expect: str, out: str) -> int:
        inputs = {"TRACE": "trace.jsonl", "EXPECT": expect, "OUT": out, "MODEL": "", "SOURCE": str(ROOT)}
        inputs |= {"ARGUMENTS": "--backend fast --block-size 4 --capacity-blocks 8"}
        runner = {"RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "output")}
        return subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=os.environ | inputs | runner).returncode

    assert run("", "stored") == 0
    assert run("stored/summary.jsonl", "again") == 0
    assert "summary=again/summary.jsonl" in (tmp_path / "output").read_text().splitlines()
    stored = tmp_path / "stored" / "summary.jsonl"
    summary = json.loads(stored.read_text())
    stored.write_text(json.dumps(summary | {"hit_tokens": summary["hit_tokens"] + 4}) + "\n")
    assert run("stored/summary.jsonl", "again") == 1


def test_a_class_name_of_the_package_is_used_once() -> None:
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "vllm_sim").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(path.name)
    assert {name: files for name, files in found.items() if len(files) > 1} == {}
