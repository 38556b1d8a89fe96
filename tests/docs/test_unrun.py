"""Commands of the README and the manual that no test can run still exist, with the options that they are shown with."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, commands
from tests.docs.pages import blocks as blocks_of
from vllm_sim.cli.main import build_parser

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
ELSEWHERE = ("curl", "pip", "python3", "pre-commit", ".")
"""Programs of others, whose options are theirs."""


def unrun(*programs: str) -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "sh" and not block.is_run:
                for words in commands(block):
                    if words[0] in programs:
                        yield block.place, words


def test_every_program_is_known() -> None:
    known = ("vllm-sim", "vllm", "make", "python", *ELSEWHERE)
    shown = {
        words[0] for page in PAGES for block in blocks_of(page) if block.language == "sh" for words in commands(block)
    }
    assert shown <= set(known)


def test_the_options_of_our_commands_exist() -> None:
    found = list(unrun("vllm-sim"))
    assert found
    for place, words in found:
        try:
            build_parser().parse_args(words[1:])
        except SystemExit:
            pytest.fail(f"{place}: {' '.join(words)}")


@pytest.mark.slow
def test_the_options_of_vllm_serve_exist() -> None:
    found = list(unrun("vllm"))
    assert found
    helped = subprocess.run(
        [Path(sys.executable).parent / "vllm", "serve", "--help=all"],
        env=os.environ | {"VLLM_SIM_TRACE_PATH": str(ROOT / "trace.jsonl")},  # a device, without which vLLM has no help
        capture_output=True,
        text=True,
        check=True,
    )
    known = set(re.findall(r"--[\w-]+", helped.stdout))
    for place, words in found:
        assert words[1] == "serve"
        options = {word for word in words if word.startswith("--")}
        assert options <= known, f"{place}: {options - known}"


def test_the_targets_and_variables_of_make_exist() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    for place, (_, *words) in unrun("make"):
        for word in words:
            name, assigned, _ = word.partition("=")
            if assigned:
                assert f"$({name})" in MAKEFILE or f"$(if $({name})" in MAKEFILE, f"{place}: {word}"
            else:
                assert name in phony[1].split(), f"{place}: {word}"


def test_scripts_and_modules_exist_with_their_options() -> None:
    for place, (_, *words) in unrun("python"):
        if words[0] == "-m":
            spec = importlib.util.find_spec(words[1])
            assert spec is not None, f"{place}: {words[1]}"
            assert spec.origin is not None
            origin = Path(spec.origin)
            source = origin.with_name("__main__.py") if origin.name == "__init__.py" else origin
            options = words[2:]
        else:
            source, options = ROOT / words[0], words[1:]
        assert source.is_file(), f"{place}: {source}"
        for option in options:
            if option.startswith("--"):
                assert f'"{option}"' in source.read_text(encoding="utf-8"), f"{place}: {option}"
