"""What `make upgrade` finds: calls that a method of ours does not take, and contacts that are gone."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity import contacts, results, upgrade
from parity.contacts import Hook
from parity.signatures import refused
from parity.upgrade import CHECKS, Finding, attempt, compare_contacts, compare_upstream, print_table, record
from parity.workload import END_TOKEN, TURNS, make_answers, make_asks
from vllm_sim.engine import compat

MADE_UP = "vllm_sim.engine.options:PluginOptions.no_such_name"


class Upstream:
    """Two versions of one method, as Executor.set_kv_cache_layout was and is, and what else signatures have."""

    def old(self, layout_name: str) -> None: ...
    def new(self, layout_name: str, cp_kv_cache_interleave_size: int) -> None: ...
    def with_default(self, layout_name: str, more: int = 1) -> None: ...
    def with_name(self, layout_name: str, *, more: int) -> None: ...
    def with_optional_name(self, layout_name: str, *, more: int = 1) -> None: ...
    def with_any(self, layout_name: str, *more: int, **names: int) -> None: ...
    def renamed(self, layout: str) -> None: ...
    def without(self) -> None: ...


def test_a_method_that_takes_whatever_comes_serves_both_versions() -> None:
    def ours(self: Any, layout_name: str, *args: Any, **kwargs: Any) -> None: ...

    assert refused(ours, Upstream.old) is None
    assert refused(ours, Upstream.new) is None


@pytest.mark.parametrize("kind", [name for name in vars(Upstream) if not name.startswith("__")])
def test_a_method_serves_its_own_signature_and_no_other(kind: str) -> None:
    upstream: Callable[..., None] = getattr(Upstream, kind)
    assert refused(upstream, upstream) is None
    if kind != "old":
        assert refused(Upstream.old, upstream)


def test_the_refused_call_is_named() -> None:
    assert refused(Upstream.old, Upstream.new) == (
        "(self, layout_name, cp_kv_cache_interleave_size): too many positional arguments"
    )


def test_hooks_are_found_through_the_classes_between() -> None:
    class Between(Upstream):
        def old(self, layout_name: str) -> None: ...
        def of_our_own(self) -> None: ...

    class Ours(Between):
        def new(self, layout_name: str) -> None: ...

    found = contacts.hooks(Ours, Upstream)
    assert set(found) == {"old", "new"}
    assert found["old"] == Hook("(self, layout_name)", None)
    assert found["new"].upstream == "(self, layout_name, cp_kv_cache_interleave_size)"
    assert found["new"].refused


def test_an_unmet_requirement_is_named_with_what_there_is() -> None:
    lines = ["pytest >= 1", "pytest >= 1000", "no-such-package", "gone; python_version < '3'", "more; extra == 'more'"]
    assert [line.split(" is ")[0] for line in contacts.unmet(lines)] == ["pytest>=1000", "no-such-package"]


PINNED: dict[str, Any] = {
    "unmet": [],
    "changes": {"vllm:EngineCore.x": None},
    "hooks": {"ours:Executor": {"old": Hook("(self)", None), "kept": Hook("(self)", None)}},
    "abstract": {"ours:Executor": []},
    "public": {"vllm:Executor": ["kept", "old"]},
}


def test_a_version_like_the_pinned_one_holds() -> None:
    found = list(compare_contacts(PINNED, copy.deepcopy(PINNED)))
    assert found
    assert all(one.holds for one in found)


def test_a_missing_target_of_a_change_is_in_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compat, "TABLE", (dataclasses.replace(compat.TABLE[0], target=MADE_UP),))
    other = copy.deepcopy(PINNED) | {"changes": contacts.changes()}
    (wrong,) = [one for one in compare_contacts(PINNED, other) if not one.holds]
    assert (wrong.section, wrong.name) == ("change", MADE_UP)
    print_table("9.9.9", [wrong])
    printed = " ".join(capsys.readouterr().out.split())
    assert "NO" in printed
    assert "no_such_name" in printed


@pytest.mark.parametrize(
    ("hooks", "holds", "text"),
    [
        ({"kept": Hook("(self)", None)}, False, "is not there upstream any more"),
        ({"old": Hook("(self, x)", "(self, x): too many"), "kept": Hook("(self)", None)}, False, "does not take"),
        ({"old": Hook("(self, x)", None), "kept": Hook("(self)", None)}, True, "ours takes both"),
        ({**PINNED["hooks"]["ours:Executor"], "new": Hook("(self)", None)}, False, "now upstream's too"),
    ],
)
def test_a_hook_that_differs_is_named(hooks: dict[str, Hook], holds: bool, text: str) -> None:
    other = copy.deepcopy(PINNED) | {"hooks": {"ours:Executor": hooks}}
    (one,) = [one for one in compare_contacts(PINNED, other) if text in one.found]
    assert one.holds is holds


def test_what_upstream_made_abstract_and_what_it_does_not_meet_do_not_hold() -> None:
    other = copy.deepcopy(PINNED) | {"abstract": {"ours:Executor": ["must"]}, "unmet": ["certifi>=2 is needed"]}
    assert [one.section for one in compare_contacts(PINNED, other) if not one.holds] == ["requirements", "hook"]


def test_new_and_gone_names_of_upstream_are_listed_and_hold() -> None:
    other = copy.deepcopy(PINNED) | {"public": {"vllm:Executor": ["kept", "newer"]}}
    (one,) = [one for one in compare_contacts(PINNED, other) if one.section == "new upstream"]
    assert one == Finding("new upstream", "Executor", True, "new: newer; gone: old")


def test_upstreams_tests_hold_where_each_way_passes_the_same() -> None:
    row = {"passed": 2, "failed": 0, "refused": 0, "pools": "", "differences": []}
    assert [one.holds for one in compare_upstream({"plain": row, "ours": row | {"differences": ["a::b"]}})] == [
        True,
        False,
    ]
    assert not any(one.holds for one in compare_upstream({"plain": row | {"passed": 0}}))


def test_a_check_that_cannot_be_made_does_not_hold() -> None:
    def fails() -> list[Finding]:
        raise SystemExit("the side failed:\nTypeError: one too many")

    assert attempt("steps", fails) == [Finding("steps", "cannot be looked at", False, "TypeError: one too many")]


def test_drawn_answers_end_as_a_models_do_and_make_the_next_prompt() -> None:
    asks = make_asks(1, 70)
    served = make_answers(asks, 1)
    assert len(served) == 70 * TURNS
    ends = 0
    for ask in asks:
        prompt, answer = served[ask.row]
        assert 0 < len(answer) <= ask.max_tokens
        assert END_TOKEN not in answer[:-1]
        ends += answer[-1] == END_TOKEN
        prompt_before, answer_before = ([], []) if ask.after_row is None else served[ask.after_row]
        assert prompt == prompt_before + answer_before + ask.tokens
    assert 70 < ends < 70 * TURNS


def test_a_version_holds_in_the_results_once_every_check_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (results, upgrade):
        monkeypatch.setattr(module, "RESULTS", tmp_path)

    def holds() -> bool | None:
        return json.loads((tmp_path / "upgrade-9.9.9.json").read_text(encoding="utf-8"))["holds"]

    for check in CHECKS:
        record("9.9.9", check, [Finding(check, "x", True, "")])
        assert holds() is (True if check == CHECKS[-1] else None)
    record("9.9.9", "steps", [Finding("steps", "x", False, "step 3 differs")])
    assert holds() is False
