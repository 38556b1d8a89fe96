"""Tunes a policy's constants, one after the other, on the mixes `tune_*` and on first halves of hash-id traces alone.

The score is the share of the gap between LRU and the optimum that is closed: sum of gains / sum of gaps in hit tokens,
the mean over traces, so that a long one does not decide. Where the plan has a floor for the policy, a choice that falls
further under LRU at any point is out. For each constant in turn the listed values are tried and the best is kept, until
a round changes nothing.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from joblib import Parallel, delayed

from milestone3_code.study.plan import LIST, hash_block_size
from milestone3_code.study.view import Params, View, capacity_of, hit_tokens, requests_of
from vllm_sim.eviction.registry import find_policy
from vllm_sim.workloads.tables import Rule, read_toml

SHARE = Rule(lambda value: isinstance(value, int | float) and value <= 0, "a number, 0 or less")


class Score(NamedTuple):
    """Of a choice of constants."""

    gap_closed: float
    worst: float
    """Lowest token hit rate over LRU's at a point."""


class Tuned(NamedTuple):
    """What was found for a policy."""

    best: dict[str, float]
    score: Score
    default: dict[str, float]
    default_score: Score


def tuning_views(plan: Path, data: Path, model: str, hash_traces: Sequence[Path]) -> list[tuple[View, list[str]]]:
    """What is tuned on, with its capacities.

    Raises:
        ValueError: a mix was not built, or the plan cannot be used.
    """
    top = read_toml(plan)
    tune = top.need_table("tune")
    found = []
    for name in tune.need("mixes", LIST):
        path = data / f"tune_{name}.jsonl"
        if not path.is_file():
            raise ValueError(f"no {path}; first run milestone3_code/build_mixes.py")
        for size in tune.need("block_sizes", LIST):
            found.append((View(path, model, size), tune.need("capacities", LIST)))
    for path in hash_traces:
        view = View(path, model, hash_block_size(path), part="first", raw_blocks=True)
        found.append((view, tune.need("hash_blocks", LIST)))
    return found


def tuned_policies(plan: Path) -> list[str]:
    """Policies of which the plan lists constants, in its order."""
    return list(read_toml(plan).need_table("tune").need_table("values"))


def tune(
    plan: Path,
    policy: str,
    views: Sequence[tuple[View, list[str]]],
    say: Callable[[str], None],
    jobs: int = -1,
) -> Tuned:
    """The best constants that were found.

    Args:
        plan: the TOML file; its table [tune.values.POLICY] lists what is tried of each constant.
        policy: a name.
        views: of `tuning_views`.
        say: called with each choice and its score.
        jobs: processes, -1 for one a core.

    Raises:
        ValueError: the plan has no constants of the policy, or one that it has not.
    """
    table = read_toml(plan).need_table("tune")
    floors, values = table.need_table("worst"), table.need_table("values").need_table(policy)
    worst = float(floors.need(policy, SHARE)) if policy in floors else -1.0
    candidates = {name: values.need(name, LIST) for name in values}
    defaults = {name: value.default for name, value in inspect.signature(find_policy(policy)).parameters.items()}
    unknown = candidates.keys() - defaults.keys()
    if unknown:
        raise ValueError(f"{plan}: tune.values.{policy} has {', '.join(sorted(unknown))}, which {policy} does not have")
    default: Params = tuple((name, defaults[name]) for name in candidates)
    best = default
    known: dict[Params, Score] = {}
    changed = True
    with Parallel(n_jobs=jobs) as parallel:
        while changed:
            changed = False
            for name, tried in candidates.items():
                choices = [best, *_others(best, name, tried)]
                todo = [choice for choice in choices if choice not in known]
                for choice, found in zip(todo, _scores(parallel, policy, todo, views), strict=True):
                    known[choice] = found
                    worst_point = f"worst point {100 * found.worst:+.2f} points"
                    say(f"{policy}, {_shown(choice)}: closes {found.gap_closed:.4f}, {worst_point}")
                allowed = [choice for choice in choices if known[choice].worst >= worst] or [best]
                winner = max(allowed, key=lambda choice: known[choice].gap_closed)
                changed, best = changed or winner != best, winner
    return Tuned(dict(best), known[best], dict(default), known[default])


def _scores(
    parallel: Parallel, policy: str, choices: Sequence[Params], views: Sequence[tuple[View, list[str]]]
) -> list[Score]:
    """Of each choice over all traces."""
    parts = parallel(delayed(score)(policy, choice, *view) for view in views for choice in choices)
    own = [parts[place :: len(choices)] for place in range(len(choices))]
    return [Score(sum(part.gap_closed for part in of) / len(of), min(part.worst for part in of)) for of in own]


def score(policy: str, params: Params, view: View, capacities: Sequence[str]) -> Score:
    """Of one choice on one trace."""
    gain = gap = 0
    worst = 1.0
    prompt = int(requests_of(view).requests.prompt_tokens.sum())
    for text in capacities:
        capacity = capacity_of(text, view)
        lru, opt = (int(hit_tokens(view, name, capacity).sum()) for name in ("lru", "belady"))
        own = int(hit_tokens(view, policy, capacity, params).sum()) - lru
        gain, gap, worst = gain + own, gap + opt - lru, min(worst, own / prompt)
    return Score(gain / max(1, gap), worst)


def _others(best: Params, name: str, tried: Sequence[float]) -> Iterator[Params]:
    """Choices that differ from a choice in one constant."""
    for value in tried:
        choice = tuple((key, value if key == name else old) for key, old in best)
        if choice != best:
            yield choice


def _shown(choice: Params) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in choice)
