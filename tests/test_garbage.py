"""What is made where no garbage is looked for is never looked at."""

import gc

import pytest

from vllm_sim.garbage import no_search_for_garbage


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_made_is_kept_out_of_later_searches(enabled: bool) -> None:
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with no_search_for_garbage():
            assert not gc.isenabled()
            made = [[] for _ in range(1000)]
        assert gc.isenabled() == enabled
        searched = {id(found) for found in gc.get_objects()}
        assert searched.isdisjoint(map(id, made))
    finally:
        (gc.enable if was_enabled else gc.disable)()
