"""Claims about every registered policy, and about each policy's own behaviour."""

import numpy as np
import pytest

from vllm_sim.eviction.chains import Requests, link
from vllm_sim.eviction.registry import POLICIES, make_policy
from vllm_sim.eviction.simulate import make_context, simulate

ONLINE = [name for name in POLICIES if name != "belady"]


def random_requests(seed: int, count: int = 60, block_size: int = 4, ids: int = 3, longest: int = 6) -> Requests:
    """Prompts over few ids, so that prefixes repeat, exact multiples of the block size among them."""
    draw = np.random.default_rng(seed)
    full = draw.integers(0, longest, count)
    tail = draw.integers(0, block_size, count)
    tokens = np.maximum(full * block_size + tail, 1)
    lengths = tokens // block_size
    return Requests(
        draw.integers(0, ids, lengths.sum()),
        np.concatenate([[0], np.cumsum(lengths)]),
        tokens,
        draw.integers(0, 10, count),
        draw.integers(0, 3, count),
        draw.integers(0, 2, count),
    )


@pytest.mark.parametrize("raw", [False, True], ids=["vllm", "raw"])
@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_strands_a_block(policy: str, raw: bool) -> None:
    for seed in range(20):
        run = simulate(link(random_requests(seed), 4, raw), policy, 8)
        assert run.orphan_blocks == 0
        assert run.evicted_blocks > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_every_hittable_block_is_hit_cold_or_missed(policy: str) -> None:
    chains = link(random_requests(0), 4)
    run = simulate(chains, policy, 8)
    assert np.array_equal(run.hit + run.cold + run.missed, chains.hittable)
    assert ((run.evicted_by >= 0) == ((run.missed > 0) & ~run.rejected)).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_an_unlimited_cache_misses_and_evicts_nothing(policy: str) -> None:
    run = simulate(link(random_requests(1), 4), policy, None)
    assert not run.missed.any()
    assert not run.evicted_blocks


@pytest.mark.parametrize("policy", POLICIES)
def test_renaming_ids_changes_no_hit(policy: str) -> None:
    requests = random_requests(2)
    renamed = requests._replace(ids=np.array([71, 5, 1000])[requests.ids], salt=1 - requests.salt)
    assert np.array_equal(
        simulate(link(requests, 4), policy, 9).hit,
        simulate(link(renamed, 4), policy, 9).hit,
    )


@pytest.mark.parametrize("policy", ONLINE)
def test_what_comes_later_changes_no_earlier_hit(policy: str) -> None:
    requests = random_requests(3)
    cut = Requests(requests.ids[: requests.begins[30]], requests.begins[:31], *(array[:30] for array in requests[2:]))
    # The number of categories is part of the set-up.
    cut.category[0] = requests.category.max()
    requests.category[0] = cut.category[0]
    assert np.array_equal(simulate(link(requests, 4), policy, 9).hit[:30], simulate(link(cut, 4), policy, 9).hit)


@pytest.mark.parametrize("policy", ONLINE)
def test_no_policy_beats_the_optimum(policy: str) -> None:
    for seed in range(30):
        for capacity in (7, 9, 14):
            chains = link(random_requests(seed), 4)
            best = simulate(chains, "belady", capacity)
            assert simulate(chains, policy, capacity).hit.sum() <= best.hit.sum()


@pytest.mark.parametrize("policy", POLICIES)
def test_plain_python_and_compiled_code_agree(policy: str) -> None:
    from vllm_sim.eviction import kernel
    from vllm_sim.eviction.prefix_index import PrefixIndex

    chains = link(random_requests(4), 4)
    ranker = make_policy(policy, make_context(chains, policy, 8), {})
    index = PrefixIndex(8, chains.working_set, ranker, recycle=False)
    out = np.zeros((chains.need.size, 6), np.int64)
    kernel.serve.py_func(index, ranker, chains, 8, out)
    assert np.array_equal(out[:, kernel.HIT], simulate(chains, policy, 8).hit)


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
