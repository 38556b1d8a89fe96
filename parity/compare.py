"""Compares two logs of steps, and counts what happened in one."""

from typing import Any

Step = dict[str, Any]
FIELDS = (
    "new", "known", "resumed", "preempted", "finished", "evicted", "zeroed", "copied", "copies", "tokens",
)  # fmt: skip


def differences(
    real: list[Step],
    simulated: list[Step],
    fields: tuple[str, ...] = FIELDS,
    limit: int = 5,
    other: str = "in the simulator",
) -> list[str]:
    """What differs, the first `limit` findings; nothing where every step is equal in every field.

    A step is compared in all `fields`: which requests are scheduled, with how many tokens and computed tokens, in which
    blocks, which are preempted, resumed or have finished, which hashes are removed, which blocks are zeroed and
    copied, which are copied to and from which places of CPU memory, and which tokens come out.
    `other` says where the second log is from.
    """
    if not real:
        return ["the first log has no step: nothing was compared"]
    found = []
    if len(real) != len(simulated):
        found.append(f"{len(real)} steps, and {len(simulated)} {other}")
    for number, (one, two) in enumerate(zip(real, simulated, strict=False)):
        found += [
            f"step {number}, {name}: {_short(one[name])}, and {_short(two[name])} {other}"
            for name in fields
            if one[name] != two[name]
        ]
        if len(found) >= limit:
            break
    return found[:limit]


def _short(value: Any, width: int = 160) -> str:
    text = str(value)
    return text if len(text) <= width else text[:width] + "..."


def hits(steps: list[Step]) -> dict[str, int]:
    """Prompt tokens that each request found cached when it was scheduled first."""
    found: dict[str, int] = {}
    for step in steps:
        for name, computed, *_ in step["new"]:
            found.setdefault(name, computed)
    return found


def counts(steps: list[Step]) -> dict[str, int]:
    """How often each thing happened that a comparison must have seen."""
    chunked = sum(tokens > 1 and name not in step["resumed"] for step in steps for name, _, tokens, _ in step["known"])
    return {
        "steps": len(steps),
        "requests": len(hits(steps)),
        "hit_tokens": sum(hits(steps).values()),
        "evictions": sum(len(step["evicted"]) for step in steps),
        "preemptions": sum(len(step["preempted"]) for step in steps),
        "chunked_prefills": chunked,
        "output_tokens": sum(len(tokens) for step in steps for tokens, _ in step["tokens"].values()),
    }


def copied_blocks(steps: list[Step]) -> dict[str, int]:
    """Blocks that were copied between the GPU's and CPU memory."""
    copies = [copy for step in steps for copy in step["copies"] if copy[1] != "wait"]
    return {
        f"{name}_blocks": sum(len(copy[2]) for copy in copies if copy[1] == way)
        for name, way in (("stored", "store"), ("loaded", "load"))
    }


def chunks_inside_output(steps: list[Step], prompt_tokens: dict[str, int]) -> int:
    """How often a request that had come back computed a chunk that ended inside its output, where it may not sample.

    Args:
        steps: of one side.
        prompt_tokens: by request.
    """
    given = dict.fromkeys(prompt_tokens, 0)
    found = 0
    for step in steps:
        for name, computed, tokens, _ in (*step["new"], *step["known"]):
            found += prompt_tokens[name] <= computed + tokens < prompt_tokens[name] + given[name]
        for name, (tokens, _) in step["tokens"].items():
            given[name] += len(tokens)
    return found


def missing(found: dict[str, int]) -> list[str]:
    """The things of `counts` that never happened."""
    return [f"{name} is 0: the comparison has not seen any" for name, count in found.items() if not count]
