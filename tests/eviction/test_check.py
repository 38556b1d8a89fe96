"""Claims about the shared checks: they find a policy that breaks a rule, and a sound one passes all."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vllm_sim.eviction import check
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex
from vllm_sim.eviction.priority import BlockUse, PriorityPolicy
from vllm_sim.eviction.simulate import simulate

HERE = __name__


class FewestUses(PriorityPolicy):
    def priority(self, block: BlockUse) -> float:
        return block.uses


class Deepest(PriorityPolicy):
    """Fractions, negative ones among them."""

    def priority(self, block: BlockUse) -> float:
        return 0.5 - block.depth / 3


class LeastRecent(PriorityPolicy):
    def priority(self, block: BlockUse) -> float:
        return block.last_use


class NoNumber(PriorityPolicy):
    def priority(self, block: BlockUse) -> float:
        return float("nan")


class Forgetful(Policy):
    """Differs from run to run."""

    runs = 0

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        type(self).runs += 1

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, stamp if self.runs % 2 else -stamp


class Seer(Policy):
    """Knows how many nodes there will be."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.sign = 1 if context.nodes > 60 else -1

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, self.sign * stamp


class Strange(Policy):
    def victim(self, index: PrefixIndex) -> int:
        raise KeyError("nothing here")


def failures(policy: type) -> dict[str, str]:
    found = check.run_checks(f"{HERE}:{policy.__name__}")
    return {result.claim: result.error for result in found if result.error is not None}


@pytest.mark.parametrize("policy", [FewestUses, Deepest, LeastRecent])
def test_a_policy_of_one_method_passes(policy: type) -> None:
    assert failures(policy) == {}


def test_priorities_order_blocks_as_the_policies_that_they_are() -> None:
    chains = check.link(check.random_requests(0, 300), 4)
    for policy, same in ((LeastRecent, "lru"), (PriorityPolicy, "lru")):
        name = f"{policy.__module__}:{policy.__name__}"
        assert np.array_equal(simulate(chains, name, 9).hit, simulate(chains, same, 9).hit)
    fewest = simulate(chains, f"{HERE}:FewestUses", 9).hit
    assert np.array_equal(fewest, simulate(chains, "lfu", 9, {"ageing": 0}).hit)
    assert not np.array_equal(fewest, simulate(chains, "lru", 9).hit)


class Given(PriorityPolicy):
    """The priority that the test sets."""

    value = 0.0

    def priority(self, block: BlockUse) -> float:
        return self.value


def test_keys_are_in_the_order_of_priorities_below_and_above_zero() -> None:
    policy = Given(PolicyContext(4, 4))
    keys = []
    for policy.value in (-1e300, -2.5, -2, -1e-9, -0.0, 0, 1e-9, 0.5, 3, 2**62):
        queue, key = policy.rank(0, 1, 7)
        keys.append(key)
        assert queue == 0
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) - 1  # both zeros are one


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (Forgetful, "same traffic"),
        (Seer, "What comes later"),
        (NoNumber, "not NaN"),
        (Strange, "KeyError: 'nothing here'"),
    ],
)
def test_a_policy_that_breaks_a_rule_is_found(policy: type, wanted: str) -> None:
    found = failures(policy)
    assert any(wanted in f"{claim}: {error}" for claim, error in found.items()), found


def test_every_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that counts one hit too many, an eviction and an orphan too few breaks what no policy can break."""
    real = simulate

    def wrong(chains: Any, policy: str, *rest: Any) -> Any:
        run = real(chains, policy, *rest)
        hit = run.hit + (np.arange(run.hit.size) == 3) * (policy != check.OFFLINE) * (1 + int(chains.nodes.sum()) % 2)
        return type(run)(hit, *(getattr(run, name) for name in run.__slots__[1:7]), run.rejected, 0, 1)

    monkeypatch.setattr(check, "simulate", wrong)
    found = {result.claim for result in check.run_checks("lru") if result.error is not None}
    assert len(found) >= 4


def test_the_command_says_what_holds_and_what_it_costs(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from vllm_sim.eviction.priority import PriorityPolicy\n\n\n"
        "class Few(PriorityPolicy):\n    def priority(self, block):\n        return block.uses\n\n\n"
        "class Bad(PriorityPolicy):\n    def priority(self, block):\n        return float('nan')\n"
    )
    command = [str(Path(sys.executable).with_name("vllm-sim")), "policy", "check", "--json"]
    for name, code in (("Few", 0), ("Bad", 1)):
        done = subprocess.run([*command, f"mine:{name}"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (code, "")
        said = json.loads(done.stdout)
        assert [one["error"] is None for one in said["checks"]].count(False) == (0 if code == 0 else 7)
        assert (said["cost"] is None) == bool(code)
    done = subprocess.run([*command, "mine:None"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "vllm-sim: error: policy is 'mine:None', which cannot be loaded" in done.stderr
