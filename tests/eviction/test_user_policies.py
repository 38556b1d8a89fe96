"""A user's own policy: by its path, plain or compiled, and by the name that an installed package registers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.eviction.test_policies import random_requests
from vllm_sim.eviction.chains import link
from vllm_sim.eviction.policies.lru import Lru
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.registry import find_policy, make_policy
from vllm_sim.eviction.simulate import simulate

PLAIN, COMPILED = (f"tests.eviction.user_policies:{name}" for name in ("MostRecent", "CompiledMostRecent"))

SOURCE = """
from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy

@compiled
class Mine(Policy):
    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, -stamp
"""


class Ranked(Lru):
    """Wants a list, and ranks."""

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, -stamp


def test_plain_python_and_compiled_code_hit_the_same() -> None:
    for seed in range(5):
        chains = link(random_requests(seed), 4)
        plain, compiled = simulate(chains, PLAIN, 9), simulate(chains, COMPILED, 9)
        assert np.array_equal(plain.hit, compiled.hit)
        assert plain.evicted_blocks == compiled.evicted_blocks > 0
        assert not np.array_equal(plain.hit, simulate(chains, "lru", 9).hit)


def test_a_policy_in_order_that_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="is in_order and ranks blocks"):
        simulate(link(random_requests(0), 4), f"{__name__}:Ranked", 9)


@pytest.mark.parametrize("kind", ["Astray", "CompiledAstray"])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"block": 10**6}, "must return a block that index.leaves holds"),
        ({"block": -(10**6)}, "must return a block that index.leaves holds"),
        ({"queue": 10**6}, "must return a queue below policy.queues"),
        ({"queue": -1}, "must return a queue below policy.queues"),
        ({"fraction": 1}, "must return a key that is a whole number"),
    ],
)
def test_an_answer_out_of_range_is_an_error_and_no_crash(kind: str, params: dict[str, int], message: str) -> None:
    chains = link(random_requests(0), 4)
    with pytest.raises(ValueError, match=message):
        simulate(chains, f"tests.eviction.user_policies:{kind}", 9, params)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that registers a policy, and one by a name that is taken."""
    (tmp_path / "their_policies.py").write_text(SOURCE)
    info = tmp_path / "their_policies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-policies\nVersion: 1.0\n")
    points = "[vllm_sim.eviction_policies]\nmine = their_policies:Mine\nlru = their_policies:Mine\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_an_installed_package_registers_a_policy_by_name(package: Path) -> None:
    chains = link(random_requests(0), 4)
    assert np.array_equal(simulate(chains, "mine", 9).hit, simulate(chains, PLAIN, 9).hit)
    with pytest.raises(ValueError, match=r"policy is 'yours'; allowed: .*mine.*, or module:Class"):
        find_policy("yours")


def test_an_installed_package_cannot_take_a_name_of_ours(package: Path) -> None:
    assert find_policy("lru") is Lru


FAULTY = """
from vllm_sim.eviction.policy import Policy

class Typed(Policy):
    def __init__(self, context, share=1):
        super().__init__(context)
        self.limit = share + context.blocks

class Needy(Policy):
    def __init__(self, context, share):
        super().__init__(context)
"""


def test_an_error_says_where_in_a_user_s_code_it_was_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        name: tmp_path / f"{name}_policies.py" for name in ("without_import", "without_attribute", "faulty_parameter")
    }
    files["without_import"].write_text("\n\nimport nothing_of_the_name\n")
    files["without_attribute"].write_text("import os\nos.nothing_of_the_name\n")
    files["faulty_parameter"].write_text(FAULTY)
    for name, line in (("without_import", 3), ("without_attribute", 2)):
        with pytest.raises(ValueError, match=rf"nothing_of_the_name.* \({files[name]}, line {line}\)$"):
            find_policy(f"{name}_policies:Mine")
    context, here = PolicyContext(4, 9), "faulty_parameter_policies"
    with pytest.raises(ValueError, match=rf"are {{'share': 'a'}}: .* \({files['faulty_parameter']}, line 7\)$"):
        make_policy(f"{here}:Typed", context, {"share": "a"})
    with pytest.raises(ValueError, match=r"are {}: missing a required argument: 'share'$"):
        make_policy(f"{here}:Needy", context)
    with pytest.raises(ValueError, match=r"cannot be loaded: No module named 'nowhere_at_all'$"):
        find_policy("nowhere_at_all:Mine")
    with pytest.raises(ValueError, match=r"cannot be loaded: module '.*' has no attribute 'Mine'$"):
        find_policy(f"{here}:Mine")


def test_a_compiled_policy_that_is_gone_leaves_the_compiler_s_cache_whole(tmp_path: Path) -> None:
    (tmp_path / "gone.py").write_text(SOURCE)
    script = (
        "import sys; from vllm_sim.eviction import compiled;"
        "from vllm_sim.eviction.registry import PolicyContext, make_policy;"
        "compiled.native(make_policy(sys.argv[1], PolicyContext(4, 9)));"
        "print(sum(compiled._build.stats.cache_misses.values()), sum(compiled._build.stats.cache_hits.values()))"
    )
    root = Path(__file__).parents[2]

    def misses_and_hits(policy: str, path: str) -> list[str]:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{root}{path}"}
        command = [sys.executable, "-c", script, policy]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()

    assert misses_and_hits("gone:Mine", f":{tmp_path}") == ["1", "0"]
    assert misses_and_hits("lru", "") == ["1", "0"]
    assert misses_and_hits("gone:Mine", f":{tmp_path}") == ["0", "1"]
    assert misses_and_hits("lru", "") == ["0", "1"]


HELPED = """
from helper import SIGN
from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy

@compiled
class Mine(Policy):
    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, SIGN * stamp
"""


@pytest.mark.slow
def test_what_was_compiled_before_an_edit_or_a_new_name_is_not_used(tmp_path: Path) -> None:
    script = (
        "import sys; from tests.eviction.test_policies import random_requests;"
        "from vllm_sim.eviction.chains import link; from vllm_sim.eviction.simulate import simulate;"
        "print(simulate(link(random_requests(0), 4), sys.argv[1], 9).hit.sum())"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = f"{Path(__file__).parents[2]}:{tmp_path}"

    def hits(policy: str) -> int:
        command = [sys.executable, "-c", script, policy]
        return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    chains = link(random_requests(0), 4)
    lru, most_recent = (int(simulate(chains, policy, 9).hit.sum()) for policy in ("lru", PLAIN))
    assert lru != most_recent
    (tmp_path / "mine.py").write_text(HELPED)
    (tmp_path / "helper.py").write_text("SIGN = 1\n")
    assert hits("mine:Mine") == lru
    (tmp_path / "helper.py").write_text("SIGN = -1\n")
    assert hits("mine:Mine") == most_recent
    (tmp_path / "mine.py").write_text(HELPED.replace("class Mine", "class Other"))
    assert hits("mine:Other") == most_recent
