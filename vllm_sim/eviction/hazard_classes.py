"""Classes of blocks, and for each the chance of a use in the next interval of age, as in survival analysis.

A class is described by several small numbers, the most telling first. It is a row in a tree: the first number leads to
a row, that and the second one to a row below it, and so on. A row is made when it is first needed; where there are no
more rows, the row above stands for it. Waits are counted by row and bin of age: how many ended there with a use, how
many without one, and how many go on, for as long as they have so far. The chance of a row is blended into that of the
row above it where it has seen little.

Worth is the Gittins index: the highest ratio, over all times to give a block up, of the chance of a use until then to
the room (blocks times time) that it takes until then.

Sources: Kaplan, Meier, "Nonparametric estimation from incomplete observations", 1958; Gittins, "Bandit processes and
dynamic allocation indices", 1979; Beckmann, Chen, Cidon, "LHD: improving cache hit rate by maximizing hit density",
NSDI 2018 (hits over time and room, by class and age).
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled

AGES = 96
"""Bins of age, two to an octave: 0, 1, 2, 3, 4 to 5, 6 to 7, 8 to 11, 12 to 15 ..."""
MOST_ROWS = 1024
_BIN_BITS = 51
"""Bits of a number's fraction below those that say its bin: where it lies between that bin and the next one."""


@compiled
class HazardClasses:
    """The tree, the counts and the table of worth.

    Attributes:
        rows: rows there are; row 0 is that of all blocks.
        worth: by row, at the begin of each bin of age, of those rows that blocks are in; [MOST_ROWS, AGES].
        reused, lost: waits that ended in a bin, with a use or without; [MOST_ROWS, AGES].
        waiting: waits that go on, by the place of their begin; [MOST_ROWS, places].
        is_used: rows that blocks are in, and not only rows below them; [MOST_ROWS].

    Args:
        sizes: how many values each number of a class has.
        places: begins of waits that are kept apart.
        prior: for how many waits the chance of the row above counts.
    """

    def __init__(self, sizes: np.ndarray, places: int, prior: float):
        self.sizes = sizes
        self.prior = prior
        # The row of the first numbers of a class: those of one, of two ..., one after the other; -1 for none.
        self.row_of = np.full(int(np.cumprod(sizes).sum()), -1, np.int32)
        self.above = np.zeros(MOST_ROWS, np.int32)
        self.is_used = np.zeros(MOST_ROWS, np.bool_)
        self.rows = 1
        self.reused = np.zeros((MOST_ROWS, AGES))
        self.lost = np.zeros((MOST_ROWS, AGES))
        self.waiting = np.zeros((MOST_ROWS, places), np.int32)
        self.worth = np.zeros((MOST_ROWS, AGES))
        # When waits of a place began.
        self.began = np.zeros(places, np.int64)
        # Of a refresh: counts of a row with all below it, and chances.
        self.all_reused = np.zeros((MOST_ROWS, AGES))
        self.all_lost = np.zeros((MOST_ROWS, AGES))
        self.chance = np.zeros((MOST_ROWS, AGES))
        self.scratch = np.zeros((3, AGES))

    def bin(self, age: int) -> int:
        if age < 2:
            return max(age, 0)
        # The exponent of the number and the first bit of its fraction.
        return min(int(np.float64(age).view(np.int64) >> _BIN_BITS) - 2 * 1023, AGES - 1)

    def worth_at(self, row: int, age: int) -> float:
        """Worth at an age, on a line from that at the begin of its bin to that at the begin of the next one."""
        place = self.bin(age)
        worth = self.worth[row, place]
        if age < 2:
            return worth
        part = (np.float64(age).view(np.int64) & (2**_BIN_BITS - 1)) / 2.0**_BIN_BITS
        return worth + part * (self.worth[row, min(place + 1, AGES - 1)] - worth)

    def row(self, values: np.ndarray) -> int:
        """The row of a class, which is made if there is room; values: its numbers, below `sizes`."""
        row, code, first, width = 0, 0, 0, 1
        for i in range(self.sizes.size):
            width *= self.sizes[i]
            code = code * self.sizes[i] + values[i]
            below = self.row_of[first + code]
            if below < 0:
                if self.rows == MOST_ROWS:
                    break
                below = self.rows
                self.rows += 1
                self.row_of[first + code] = below
                self.above[below] = row
                self.inherit(row, below)
            row = below
            first += width
        self.is_used[row] = True
        return row

    def inherit(self, row: int, below: int) -> None:
        """A new row is worth what the one above it is, until the next refresh."""
        for age in range(AGES):
            self.chance[below, age] = self.chance[row, age]
        self.write_worth(below, self.chance[below])

    def begin(self, row: int, place: int) -> None:
        self.waiting[row, place] += 1

    def cancel(self, row: int, place: int) -> None:
        self.waiting[row, place] -= 1

    def end(self, row: int, place: int, age: int, is_use: bool) -> None:
        """A wait ends at an age."""
        self.waiting[row, place] -= 1
        if is_use:
            self.reused[row, self.bin(age)] += 1
        else:
            self.lost[row, self.bin(age)] += 1

    def refresh(self, now: int, keep: float) -> None:
        """Computes chances and worth; in loops, as array expressions take long to compile.

        Args:
            now: the time.
            keep: what observations count from now on.
        """
        for row in range(self.rows):
            for age in range(AGES):
                self.all_reused[row, age] = self.reused[row, age]
                self.all_lost[row, age] = self.lost[row, age]
                self.reused[row, age] *= keep
                self.lost[row, age] *= keep
        for place in range(self.began.size):
            # In the middle of the place, as far as is known here.
            after = self.began[(place + 1) % self.began.size]
            until = after if after > self.began[place] else now
            age = self.bin(now - (self.began[place] + until) // 2)
            for row in range(self.rows):
                self.all_lost[row, age] += self.waiting[row, place]
        for row in range(self.rows - 1, 0, -1):
            for age in range(AGES):
                self.all_reused[self.above[row], age] += self.all_reused[row, age]
                self.all_lost[self.above[row], age] += self.all_lost[row, age]
        for row in range(self.rows):
            self.write_chance(row)
            if row == 0 or self.is_used[row]:
                self.write_worth(row, self.chance[row])

    def write_chance(self, row: int) -> None:
        """Writes the chance of a use in each bin of age, for a node that comes to it."""
        at_risk = 0.0
        for age in range(AGES - 1, -1, -1):
            reused, lost = self.all_reused[row, age], self.all_lost[row, age]
            at_risk += reused + lost
            # Those lost in a bin were there for half of it.
            seen = max(at_risk - lost / 2, reused)
            wider, prior = (self.chance[self.above[row], age], self.prior) if row else (0.0, 0.0)
            self.chance[row, age] = (reused + prior * wider) / max(seen + prior, 1e-9)

    def write_worth(self, row: int, chance: np.ndarray) -> None:
        """Writes a row's worth at each age; chance: of a use in each bin; [AGES].

        From the last bin to the first: a bin takes in the stretch after it as long as that is worth more than itself.
        """
        used, space, alive = self.scratch[0], self.scratch[1], self.scratch[2]
        size = 0
        for age in range(AGES - 1, -1, -1):
            width = 1.0 if age < 2 else 2.0 ** (age // 2 - 1)
            u, r, a = chance[age], width * (1 - chance[age] / 2), 1 - chance[age]
            while size and u * space[size - 1] < used[size - 1] * r:
                size -= 1
                u, r, a = u + a * used[size], r + a * space[size], a * alive[size]
            used[size], space[size], alive[size] = u, r, a
            size += 1
            self.worth[row, age] = u / r
