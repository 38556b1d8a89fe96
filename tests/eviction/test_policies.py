"""Claims about every registered policy, and about each policy's own behaviour."""

import numpy as np
import pytest

from vllm_sim.eviction.chains import Requests, link
from vllm_sim.eviction.check import Check, checks_of, random_requests
from vllm_sim.eviction.names import LITERATURE, POLICIES
from vllm_sim.eviction.simulate import simulate


@pytest.mark.parametrize(("policy", "check"), [(policy, check) for policy in POLICIES for check in checks_of(policy)])
def test_every_policy_passes_the_shared_checks(policy: str, check: Check) -> None:
    check(policy, {})


@pytest.mark.slow  # compiles each of them
@pytest.mark.parametrize(("policy", "check"), [(name, check) for name in LITERATURE for check in checks_of(name)])
def test_every_policy_of_the_literature_passes_the_shared_checks(policy: str, check: Check) -> None:
    check(policy, {})


def test_a_request_larger_than_the_cache_is_rejected_and_changes_nothing() -> None:
    requests = random_requests(5)
    run = simulate(link(requests, 4), "lru", 4)
    kept = ~run.rejected
    assert run.rejected.any()
    assert not run.hit[run.rejected].any()
    lengths = np.diff(requests.begins)[kept]
    ids = np.concatenate(
        [requests.ids[a:b] for a, b in zip(requests.begins[:-1][kept], requests.begins[1:][kept], strict=True)]
    )
    without = Requests(ids, np.concatenate([[0], np.cumsum(lengths)]), *(array[kept] for array in requests[2:]))
    assert np.array_equal(simulate(link(without, 4), "lru", 4).hit, run.hit[kept])


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("lur", {}, "policy is 'lur'; allowed: lru"),
        ("lru", {"share": 1}, "no parameter 'share'; allowed: none"),
        ("slru", {"protected": 2}, "protected is 2; allowed"),
        ("builtins:int", {}, "not a subclass"),
    ],
)
def test_a_wrong_policy_is_refused_by_name_and_value(name: str, params: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(link(random_requests(0), 4), name, 8, params)
