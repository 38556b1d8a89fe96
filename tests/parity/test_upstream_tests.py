"""Runs of upstream's own tests told apart: what the platform refuses is counted by itself, all else must agree."""

import pytest

from parity.upstream_tests import REFUSAL, Run, about, differences

PLAIN = Run({"a", "b", "c"}, {"d"}, {}, "")


def test_a_refused_test_is_no_difference_and_is_named_by_what_was_refused() -> None:
    found = Run({"a", "b"}, {"d"}, {"c": "a KV connector"}, "")
    row = about(found, PLAIN)
    assert (row["passed"], row["failed"], row["refused"]) == (2, 1, 1)
    assert row["differences"] == []
    assert row["passed_plain_but_refused"] == {"a KV connector": ["c"]}


@pytest.mark.parametrize(
    ("passed", "failed", "different"),
    [({"a", "b"}, {"c", "d"}, ["c"]), ({"a", "b"}, {"d"}, ["c"]), ({"a", "b", "c", "d"}, set(), ["d"])],
)
def test_a_test_that_fails_or_is_missing_or_passes_only_here_is_a_difference(
    passed: set[str], failed: set[str], different: list[str]
) -> None:
    assert differences(PLAIN, Run(passed, failed, {}, "")) == different


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("vllm_sim cannot simulate LoRA, a KV connector; see the limits in its README", "LoRA, a KV connector"),
        ("Model Runner V1 does not support: pipeline parallelism [type=value_error", "pipeline parallelism "),
        ("AssertionError: 3 != 4", None),
    ],
)
def test_only_a_refusal_reads_as_one(text: str, what: str | None) -> None:
    found = REFUSAL.search(text)
    assert (found and found[1]) == what
