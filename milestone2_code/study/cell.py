"""The rows of study one: what a cell of the plan is made into, and a digest of the code that made it."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

import vllm_sim
from milestone2_code.study.ends import with_ends
from milestone2_code.study.plan import ENDS, ENGINE_PATTERN, MAIN_BLOCK, EnginePoint, Point
from milestone2_code.study.reuse import reuse_row
from milestone2_code.study.workload import Chats, Pattern, load_chats, ordered, write_timed
from vllm_sim.eviction.registry import POLICIES
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import Outcome, labels_of
from vllm_sim.replay.rows import Row, head
from vllm_sim.replay.run import Linked, run, serve
from vllm_sim.replay.summary import summarise
from vllm_sim.sweep.bootstrap import TURNS, Numbers, gain, hits, rate_intervals, ratio_intervals, time_intervals
from vllm_sim.sweep.runner import digest
from vllm_sim.sweep.runs import load

PACKAGE = Path(vllm_sim.__file__).parent
MAKERS = ("cell", "ends", "reuse", "workload")
"""Modules beside this one that rows hang on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Where the study reads and writes."""

    data: Path
    """Folder of preprocess_sharegpt.py's traces and of the download's source.json."""
    model: str
    results: Path
    quick: bool = False

    def trace(self, workload: str) -> Path:
        return self.data / f"{workload}_turn.jsonl"

    def chats(self, workload: str, system_prompt: bool = False) -> Chats:
        return load_chats(self.trace(workload), self.model, workload, system_prompt)

    def source(self) -> Row:
        """Where the data comes from; made data has no source.json."""
        about = self.data / "source.json"
        if not about.is_file():
            return {"source": "made"}
        told = json.loads(about.read_text(encoding="utf-8"))
        return {"source": told["source"], "sha256": told["sha256"], "whole": told.get("whole")}


def key(study: Study, point: Point | EnginePoint) -> str:
    """Names a cell of a plan over a trace."""
    text = f"{study.chats(point.workload).trace.sha256} {study.quick} {point!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache
def code(policy: str, is_fast: bool) -> str:
    """A digest of the modules that a row comes from: of the policies its own and `lru`, without the layer of traces."""
    used = {"opt", "lru"} if policy == ENDS else {policy, "lru"}
    others = {path.partition(":")[0].rpartition(".")[2] for name, path in POLICIES.items() if name not in used}
    files = [Path(__file__).with_name(f"{name}.py") for name in MAKERS]
    files.append(PACKAGE / "sweep" / "bootstrap.py")
    for folder in ("eviction", "replay", *(() if is_fast else ("engine",))):
        found = sorted((PACKAGE / folder).glob("*.py"))
        files += [path for path in found if folder != "eviction" or path.stem not in others]
    return digest(files)


def capacity_blocks(
    study: Study, workload: str, share: float | None, block_size: int, system_prompt: bool
) -> int | None:
    """A share of the working set at MAIN_BLOCK, as blocks of another size that hold as many tokens."""
    if share is None:
        return None
    chains = ordered(study.chats(workload, system_prompt), MAIN_BLOCK, Pattern()).chains
    return max(1, int(share * chains.working_set * MAIN_BLOCK) // block_size)


def cache_row(study: Study, point: Point) -> Row:
    """The row of a cell of `fast` or `blockpool`."""
    chats = study.chats(point.workload, point.system_prompt)
    config = _config(study, point)
    values: Row = {
        "experiment": point.experiment,
        "workload": point.workload,
        "capacity_share": point.share,
        "system_prompt": point.system_prompt,
        **point.pattern._asdict(),
        **head(chats.path.name, chats.trace.sha256, config),
        "seed": 0,
        "arrival_seed": point.pattern.seed,
    }
    found = ordered(chats, point.block_size, point.pattern)
    if point.experiment in ("reuse", "survival"):
        return values | reuse_row(chats, found, point.block_size)
    outcome = _served(study, point)
    row = summarise(config, chats.path.name, chats.trace.sha256, outcome).to_row()
    row = with_intervals(row, outcome) | _busy(outcome, found.sessions)
    for name in ("by_workload", "by_tenant"):
        del row[name]
    if point.experiment == "policy":
        row |= gain(outcome, _served(study, point._replace(policy="lru")))
    hit_tokens = json.dumps(hits(outcome).astype(int).tolist())
    return row | values | {"hits_sha256": hashlib.sha256(hit_tokens.encode()).hexdigest()[:16]}


def engine_row(study: Study, point: EnginePoint) -> Row:
    """The row of a cell of the engine: times from the roofline model of an H100."""
    config = RunConfig(
        model=study.model,
        capacity_blocks=capacity_blocks(study, point.workload, point.share, MAIN_BLOCK, False),
        block_size=MAIN_BLOCK,
        concurrency=point.concurrency,
    )
    summary, outcome = run(load(timed_trace(study, point.workload), study.model), config)
    values: Row = {"experiment": "engine", "workload": point.workload, "capacity_share": point.share}
    row = with_intervals(summary.to_row(), outcome) | time_intervals(outcome, outcome.labels.session.codes)
    return values | ENGINE_PATTERN._asdict() | row


def timed_trace(study: Study, workload: str) -> Path:
    """The chats as the engine reads them, written if they are not there; the name tells trace and pattern apart."""
    chats = study.chats(workload)
    mark = hashlib.sha256(f"{chats.trace.sha256} {ENGINE_PATTERN}".encode()).hexdigest()[:8]
    path = study.data / f"timed_{workload}_{mark}.jsonl"
    if not path.is_file():
        write_timed(chats, ENGINE_PATTERN, path)
    return path


def with_intervals(row: Row, outcome: Outcome) -> Row:
    """A summary with the intervals of its rates, the share of token slots that are filled, and only the first turns."""
    assert outcome.blocks_allocated is not None
    whole, *turns = rate_intervals(outcome)
    by_turn = {turn: rates | turns[int(turn)] for turn, rates in row["by_turn"].items() if int(turn) < TURNS}
    served = ~outcome.rejected
    computed = outcome.prompt_tokens + np.maximum(outcome.output_tokens, 1) - 1 - hits(outcome)
    allocated = outcome.blocks_allocated * outcome.block_size
    (pair,) = ratio_intervals((computed * served)[None], (allocated * served)[None], outcome.labels.session.codes)
    filled = round(row["slots_filled"] / max(1, row["slots_allocated"]), 6)
    return row | whole | {"by_turn": by_turn, "slots_filled_share": filled, "slots_filled_share_ci95": pair}


def _busy(outcome: Outcome, sessions: Numbers) -> Row:
    """What was found while sessions still began: after that fewer and fewer share the cache, until it is empty."""
    last = int(np.unique(sessions, return_index=True)[1].max())
    hit, prompt = hits(outcome), outcome.prompt_tokens.astype(np.float64)
    chosen = np.arange(hit.size) <= last
    (pair,) = ratio_intervals((hit * chosen)[None], (prompt * chosen)[None], sessions)
    rate = round(float(hit[chosen].sum() / prompt[chosen].sum()), 6)
    share = round(float(prompt[chosen].sum() / prompt.sum()), 6)
    return {"busy_token_hit_rate": rate, "busy_token_hit_rate_ci95": pair, "busy_prompt_share": share}


def _config(study: Study, point: Point) -> RunConfig:
    return RunConfig(
        model=study.model,
        backend=point.backend,
        capacity_blocks=capacity_blocks(study, point.workload, point.share, point.block_size, point.system_prompt),
        block_size=point.block_size,
        policy=point.policy,
    )


@lru_cache(maxsize=2)
def _served(study: Study, point: Point) -> Outcome:
    found = ordered(study.chats(point.workload, point.system_prompt), point.block_size, point.pattern)
    config = _config(study, point)
    if point.policy == ENDS and config.blocks is not None:
        return with_ends(_served(study, point._replace(policy="lru")), found.chains, config.blocks)
    return serve(Linked(found.requests, found.chains), found.records, labels_of(found.records), config)
