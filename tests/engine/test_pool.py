"""The block pool under a policy of a user, and what it cannot serve."""

import pytest

from tests.eviction.test_policies import random_requests
from vllm_sim.engine.backends.blockpool import run
from vllm_sim.eviction.chains import link
from vllm_sim.eviction.online_cache import OnlineCache, online_context
from vllm_sim.eviction.simulate import simulate

CAPACITY = 24


@pytest.mark.parametrize("name", ["MostRecent", "CompiledMostRecent"])
def test_a_policy_of_a_user_serves_the_real_pool_as_it_serves_the_fast_cache(name: str) -> None:
    chains = link(random_requests(0, count=100), 4)
    real, fast = (serve(chains, f"tests.eviction.user_policies:{name}", 9) for serve in (run, simulate))
    assert real.hit.tolist() == fast.hit.tolist()
    assert real.evicted_blocks == fast.evicted_blocks > 0


@pytest.mark.parametrize("category", [-1, 2])
def test_a_category_that_the_policy_was_not_made_for_is_an_error(category: int) -> None:
    online = OnlineCache("workload_aware", online_context("workload_aware", CAPACITY)._replace(categories=2))
    with pytest.raises(ValueError, match=rf"category {category} of a request; allowed: 0 to 1"):
        online.serve(category, 0, 1)
