"""Classes of blocks: bins, the tree of rows, chances and worth, by hand."""

import numpy as np
import pytest

from vllm_sim.eviction import hazard_classes
from vllm_sim.eviction.hazard_classes import AGES, HazardClasses


def make(sizes: tuple[int, ...] = (2, 3), prior: float = 0.0) -> HazardClasses:
    return HazardClasses(np.array(sizes, np.int64), 4, prior)


def test_the_worth_of_a_class_is_its_best_ratio_of_use_to_room() -> None:
    classes = make()
    chance = np.zeros(AGES)
    chance[0], chance[5] = 0.2, 0.5
    classes.write_worth(7, chance)
    # Bins are 1, 1, 1, 1, 2, 2 wide. From 0: give up after bin 0, or wait for bin 5: more use for more room.
    assert classes.worth[7, 0] == pytest.approx(0.2 / 0.9)
    # From bin 1: through 1 + 1 + 1 + 2 blocks of time without a use, then half a chance within 2 (1.5 on average).
    assert classes.worth[7, 1] == pytest.approx(0.5 / (1 + 1 + 1 + 2 + 2 * 0.75))
    assert classes.worth[7, 5] == pytest.approx(0.5 / 1.5)
    assert classes.worth[7, 6] == 0


def test_the_worth_is_that_of_the_best_time_to_give_up() -> None:
    random = np.random.default_rng(11)
    classes = make()
    for _ in range(50):
        chance = np.zeros(AGES)
        chance[:9] = random.random(9) ** random.integers(1, 9) * (random.random(9) < 0.6)
        classes.write_worth(3, chance)
        for begin in range(9):
            alive, used, room, best = 1.0, 0.0, 0.0, 0.0
            for age in range(begin, 9):
                used += alive * chance[age]
                room += alive * (1.0 if age < 2 else 2.0 ** (age // 2 - 1)) * (1 - chance[age] / 2)
                alive *= 1 - chance[age]
                best = max(best, used / room)
            assert classes.worth[3, begin] == pytest.approx(best)


@pytest.mark.parametrize("age", [0, 1, 2, 3, 4, 6, 8, 12, 16, 1000, 10**9])
def test_bins_are_half_octaves(age: int) -> None:
    classes = make()
    low = 2 ** int(np.log2(max(age, 1)))
    width = 1 if age < 2 else max(low // 2, 1)
    begin = age - (age - low) % width if age >= 2 else age
    assert classes.bin(begin) == classes.bin(age) == classes.bin(begin + width - 1)
    assert classes.bin(begin + width) == classes.bin(age) + 1


def test_the_worth_at_an_age_lies_between_those_at_the_begins_of_bins() -> None:
    classes = make()
    classes.worth[1] = np.arange(AGES) ** 2
    # 8 begins bin 6, which is 4 wide.
    assert [classes.worth_at(1, age) for age in (0, 1, 2, 8, 9, 11, 12)] == [0, 1, 4, 36, 39.25, 45.75, 49]
    assert classes.worth_at(1, 2**60) == (AGES - 1) ** 2


def test_a_class_is_a_row_under_that_of_its_first_numbers() -> None:
    classes = make()
    rows = [classes.row(np.array(values)) for values in ((0, 0), (0, 2), (1, 0), (0, 2))]
    assert rows[1] == rows[3]
    assert len(set(rows)) == 3
    assert classes.above[rows[0]] == classes.above[rows[1]] != classes.above[rows[2]]
    assert classes.rows == 1 + 2 + 3
    assert classes.is_used.sum() == 3


def test_where_there_are_no_more_rows_the_row_above_stands_for_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hazard_classes, "MOST_ROWS", 3)
    classes = make()
    first = classes.row(np.array((0, 0)))
    assert classes.row(np.array((0, 1))) == classes.above[first]
    assert classes.row(np.array((1, 1))) == 0


def test_who_was_lost_in_a_bin_was_at_risk_for_half_of_it() -> None:
    classes = make(prior=2.0)
    row = classes.row(np.array((0, 0)))
    above = classes.above[row]
    classes.chance[above, :] = 0.5
    classes.all_lost[row, 2], classes.all_reused[row, 2], classes.all_reused[row, 5] = 4, 2, 4
    classes.write_chance(row)
    assert classes.chance[row, [1, 2, 5]] == pytest.approx([1 / 12, (2 + 1) / (10 - 2 + 2), (4 + 1) / (4 + 2)])


def test_who_still_waits_counts_for_as_long_as_it_has_waited() -> None:
    """Of four blocks one is used at once; without the three that wait on, a use would look certain."""
    classes = make()
    row = classes.row(np.array((0, 0)))
    for _ in range(4):
        classes.begin(row, 0)
    classes.end(row, 0, 0, True)
    classes.began[1] = 900
    classes.refresh(1000, 1.0)
    assert classes.worth[row, 0] == pytest.approx(0.25 / (1 - 0.25 / 2))


def test_a_class_that_was_not_seen_takes_the_wider_estimate_and_a_larger_prior_asks_for_more_to_leave_it() -> None:
    worth = []
    for prior in (5.0, 500.0):
        classes = make(prior=prior)
        seen, little, never = (classes.row(np.array((0, value))) for value in range(3))
        classes.reused[seen, 0] = classes.lost[seen, 0] = 1000.0  # half come again at once
        classes.lost[little, 0] = 50.0  # none of them
        classes.refresh(0, 1.0)
        assert classes.worth[never, 0] == pytest.approx(classes.worth[seen, 0], rel=0.1)
        worth.append(classes.worth[little, 0] / classes.worth[never, 0])
    assert worth[0] < 0.2 < 0.8 < worth[1]
