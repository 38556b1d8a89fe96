"""Which cached blocks no hit can use, where groups of layers keep different parts of a prefix.

A prefix is hit at a boundary: a length at which each group has what it needs of it. A group of full attention needs all
blocks up to there, a sliding window its last blocks, a chunked layer those of the boundary's chunk, a state one block.
A block is dead if no boundary needs it: its eviction changes no hit. What evicts asks for dead blocks first, and only
then a policy. Evicting a block that is needed ends boundaries, and what these alone needed is dead from then on.

Prefixes are a tree whose edges are units of tokens. Of each node only the distance to the nearest boundary at or below
it is kept: whether a block of any group is needed follows from that. Not known here: what vLLM learns of dead blocks,
as a full group that is longer than its windows tells it where two prompts part (Request.shared_prefix_boundary).

Faithful to vLLM 0.32 (v1/core/single_type_kv_cache_manager.py, find_longest_cache_hit of each manager, read).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

_NONE = 2**62
"""The distance where no boundary follows."""


class Keeps(NamedTuple):
    """What a group needs of a prefix, for it to be hit at a boundary."""

    block_units: int
    """Units of a block."""
    last_blocks: int | None = None
    """Of a sliding window, or 1 of a state: so many blocks that end at the boundary. None: all of them."""
    chunk_units: int = 0
    """Above 0, only those that the boundary's chunk has; `last_blocks` is then the most of them."""

    def blocks_at(self, depth: int) -> int:
        """Blocks in a row that a boundary needs."""
        if self.chunk_units:
            return depth % self.chunk_units // self.block_units
        return self.last_blocks or 1

    def is_needed(self, depth: int, distance: int) -> bool:
        """Whether the nearest boundary, so many units after the end of a block at `depth`, needs the block."""
        if self.last_blocks is None and depth % self.block_units:
            return distance == 0  # a part of a block, which another holds whole
        if self.last_blocks is None or distance == _NONE:
            return distance != _NONE
        if self.chunk_units:
            end = depth + distance
            return end // self.chunk_units * self.chunk_units <= depth - self.block_units
        return distance <= (self.last_blocks - 1) * self.block_units


class _Prefix:
    """A node of the tree of prefixes."""

    __slots__ = ("blocks", "children", "depth", "distance", "is_boundary", "name", "parent", "runs")

    def __init__(self, name: bytes, parent: "_Prefix | None"):
        self.name, self.parent = name, parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[bytes, _Prefix] = {}
        self.blocks: dict[int, dict[int, None]] = {}
        """By group, the blocks that end here."""
        self.runs: dict[int, int] = {}
        """By group, how many blocks in a row end here, as far as it matters."""
        self.is_boundary = False
        self.distance = _NONE


class Boundaries:
    """The boundaries of what is cached, and the dead blocks among those that nobody uses.

    Args:
        groups: what each group needs.
        alignment_units: every boundary is a multiple of it.
    """

    def __init__(self, groups: Sequence[Keeps], alignment_units: int):
        self._groups, self._alignment = groups, alignment_units
        self._far = 1 + max((keeps.last_blocks or 1) * keeps.block_units for keeps in groups)
        """A distance from which on only a group that needs everything cares; larger ones are cut to it."""
        self.clear()

    def clear(self) -> None:
        """Nothing is cached."""
        self._root = _Prefix(b"", None)
        self._prefixes: dict[bytes, _Prefix] = {}
        self._places: dict[int, list[tuple[_Prefix, int]]] = {}
        """By block, the prefixes that it is cached for, and the group."""
        self._idle: set[int] = set()
        self._dead: dict[int, None] = {}

    def first_dead(self) -> int | None:
        """The block that has been dead and idle for longest, the end of a prefix first; None: there is none."""
        return next(iter(self._dead), None)

    def dead(self) -> list[int]:
        """All blocks that are dead and idle."""
        return list(self._dead)

    def add(self, names: Sequence[bytes], depth: int, group: int, block: int) -> None:
        """A block in use is cached for a prefix.

        Args:
            names: of the prefixes of one unit, two units and so on; `depth` of them at least.
            depth: units of the prefix.
            group: of the block.
            block: its number.
        """
        self._put(self._find(names, depth), group, block)

    def copy(self, block: int, other: int) -> None:
        """Another block is cached for all that a block is."""
        for prefix, group in self._places.get(block, ()):
            self._put(prefix, group, other)

    def remove(self, block: int) -> None:
        """A block is cached no longer."""
        self._idle.discard(block)
        self._dead.pop(block, None)
        for prefix, group in self._places.pop(block, ()):
            blocks = prefix.blocks[group]
            del blocks[block]
            if not blocks:
                del prefix.blocks[group]
                self._update(prefix, group)
            self._prune(prefix)

    def release(self, blocks: Iterable[int]) -> None:
        """Nobody uses these cached blocks any more; of a prefix the end comes first."""
        for block in blocks:
            self._idle.add(block)
            self._sort(block)

    def touch(self, block: int) -> None:
        """A cached block is used again."""
        self._idle.discard(block)
        self._dead.pop(block, None)

    def _put(self, prefix: _Prefix, group: int, block: int) -> None:
        blocks = prefix.blocks.setdefault(group, {})
        blocks[block] = None
        self._places.setdefault(block, []).append((prefix, group))
        if len(blocks) == 1:
            self._update(prefix, group)

    def _find(self, names: Sequence[bytes], depth: int) -> _Prefix:
        known = depth
        while known and names[known - 1] not in self._prefixes:
            known -= 1
        prefix = self._prefixes[names[known - 1]] if known else self._root
        for place in range(known, depth):
            child = _Prefix(names[place], prefix)
            prefix.children[child.name] = self._prefixes[child.name] = child
            prefix = child
        return prefix

    def _prune(self, prefix: _Prefix) -> None:
        """Forgets a prefix that nothing is cached for, nor for longer ones."""
        while not prefix.blocks and not prefix.children and prefix.parent is not None:
            del self._prefixes[prefix.name]
            del prefix.parent.children[prefix.name]
            prefix = prefix.parent

    def _update(self, prefix: _Prefix, group: int) -> None:
        """A group has a first block of a prefix, or none any more."""
        keeps = self._groups[group]
        if keeps.last_blocks is None:
            self._judge(prefix)
            return
        changed = [prefix]
        while changed:
            prefix = changed.pop()
            run = self._run(prefix, group, keeps)
            if run != prefix.runs.get(group, 0):
                prefix.runs[group] = run
                self._judge(prefix)
                changed += _below(prefix, keeps.block_units)

    def _run(self, prefix: _Prefix, group: int, keeps: Keeps) -> int:
        """Blocks in a row that end at a prefix; all that a boundary can need where the row begins with the prompt."""
        assert keeps.last_blocks is not None
        if group not in prefix.blocks:
            return 0
        if prefix.depth <= keeps.block_units:
            return keeps.last_blocks
        before = prefix
        for _ in range(keeps.block_units):
            assert before.parent is not None
            before = before.parent
        return min(keeps.last_blocks, before.runs.get(group, 0) + 1)

    def _judge(self, prefix: _Prefix) -> None:
        """Finds out whether a prefix is a boundary."""
        depth = prefix.depth
        is_boundary = depth % self._alignment == 0 and all(
            group in prefix.blocks if keeps.last_blocks is None else prefix.runs.get(group, 0) >= keeps.blocks_at(depth)
            for group, keeps in enumerate(self._groups)
        )
        if is_boundary != prefix.is_boundary:
            prefix.is_boundary = is_boundary
            self._measure(prefix)

    def _measure(self, start: _Prefix) -> None:
        """Measures anew how far the nearest boundary is, from a prefix up to where nothing changes."""
        prefix: _Prefix | None = start
        while prefix is not None:
            nearest = min((child.distance for child in prefix.children.values()), default=_NONE)
            distance = 0 if prefix.is_boundary else nearest if nearest == _NONE else min(nearest + 1, self._far)
            if distance == prefix.distance:
                break
            prefix.distance = distance
            for blocks in prefix.blocks.values():
                for block in blocks:
                    self._sort(block)
            prefix = prefix.parent

    def _sort(self, block: int) -> None:
        """Puts an idle block to the dead, or takes it from them."""
        if block not in self._idle:
            return
        for prefix, group in self._places[block]:
            if self._groups[group].is_needed(prefix.depth, prefix.distance):
                self._dead.pop(block, None)
                return
        self._dead.setdefault(block)


def _below(prefix: _Prefix, units: int) -> Iterator[_Prefix]:
    """The prefixes that are so many units longer."""
    for child in prefix.children.values():
        if units == 1:
            yield child
        else:
            yield from _below(child, units - 1)
