"""The rows of the study of hybrid models: traces of tokens, configurations, runs.

The mixes are text under the exported model's tokenizer. Its token ids are what every model gets, so all serve the same
tokens; which ids they are decides nothing in a cache. They are brought into a range that all vocabularies have and no
end token is in: two tokens become one where their ids are IDS apart, and whole blocks of such pairs do not occur.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from milestone3_code.hybrids.plan import Plan, Point
from vllm_sim.models.known import write_config
from vllm_sim.provenance import file_sha256, fingerprint
from vllm_sim.replay.cache_facts import cache_facts
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.capacity import size_bytes
from vllm_sim.sweep.runner import PlannedRun, run_grid
from vllm_sim.sweep.runs import GridRun, make_row, row_code
from vllm_sim.trace.files import iter_records, write_records
from vllm_sim.trace.record import Record
from vllm_sim.trace.tokens import load_tokenised

ROWS = "hybrids.jsonl"
FIRST_ID, IDS = 1000, 60_000
_PARTS = ("by_turn", "by_workload")
"""Fields of a replay's row that are left out here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Where the study reads and writes."""

    mixes: Path
    """Folder of report_NAME.jsonl."""
    tokeniser: str
    """The model's folder that the mixes are tokenised with."""
    data: Path
    """Folder of traces of tokens and of the models' configurations, which are made here."""
    results: Path
    quick: bool = False

    def trace(self, traffic: str) -> Path:
        return self.data / f"{traffic}.jsonl"

    def model(self, name: str) -> str:
        return str(self.data / "models" / name)


def run_study(
    plan: Plan,
    study: Study,
    say: Callable[[str], None],
    jobs: int = -1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Computes the rows that are not there yet; arguments as those of study two's (study/run.py).

    Raises:
        ValueError: a mix was not built, or a point cannot be run.
    """
    for traffic in dict.fromkeys(point.traffic for point in plan.points):
        mix = study.mixes / f"report_{traffic}.jsonl"
        if not mix.is_file():
            raise ValueError(f"no {mix}; first run milestone3_code/build_mixes.py")
        write_tokens(mix, study.tokeniser, plan.requests, study.trace(traffic))
    for model in dict.fromkeys(point.model for point in plan.points):
        write_config(model, Path(study.model(model)))
    runs = [
        PlannedRun(
            key=key(study, point),
            code=fingerprint(rows_of, row_code(point.backend, point.policy, has_groups=True)),
            files=(study.results / ROWS,),
            values=point,
            group=(point.model,),
        )
        for point in plan.points
    ]
    run_grid(runs, partial(rows_of, study), study.tokeniser, say, jobs, progress=progress)


def write_tokens(mix: Path, tokeniser: str, requests: int, out: Path) -> None:
    """Writes the first requests of a mix as tokens; an answer has as many as it had, whatever ends it."""
    trace, records = load_tokenised(mix, tokeniser), [record for _, record in iter_records(mix)][:requests]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_records(
        out,
        [
            Record(
                prompt_token_ids=(FIRST_ID + trace.prompt(row) % IDS).tolist(),
                response_token_ids=(FIRST_ID + trace.response(row) % IDS).tolist(),
                finish_reason="length",
                session_id=record.session_id,
                turn=record.turn,
                workload=record.workload,
                timestamp=record.timestamp,
                cache_salt=record.cache_salt,
            )
            for row, record in enumerate(records)
        ],
    )


def key(study: Study, point: Point) -> str:
    """Names a point over its trace and its model's configuration."""
    config = file_sha256(Path(study.model(point.model)) / "config.json")
    text = f"{file_sha256(study.trace(point.traffic))} {config} {study.quick} {point!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rows_of(study: Study, point: Point) -> list[Row]:
    """The row of a point."""
    facts = _facts(study.model(point.model), point.block_size)
    run = GridRun(study.trace(point.traffic), config_of(study, point, facts), point.memory)
    row = {name: value for name, value in make_row(run).items() if name not in _PARTS}
    return [row | point._asdict() | {"quick": study.quick}]


def config_of(study: Study, point: Point, facts: Any) -> RunConfig:
    """The configuration of a point.

    Args:
        study: where.
        point: what.
        facts: CacheFacts of the model at the point's block size.
    """
    memory = None if point.memory == "unlimited" else size_bytes(point.memory)
    if point.layout == "full":
        blocks = None if memory is None else memory // (point.block_size * full_token_bytes(facts))
        return RunConfig(backend="fast", capacity_blocks=blocks, block_size=point.block_size)
    arguments: dict[str, Any] = {"prefix_match_unit": point.match_unit} if point.match_unit else {}
    if point.retention != "default":
        arguments["prefix_cache_retention_interval"] = _retention(point.retention, facts.block_size)
    return RunConfig(
        model=study.model(point.model),
        backend=point.backend,
        policy=point.policy,
        capacity_blocks=None if memory is None else memory // facts.bytes_per_block - 1,  # without the null block
        block_size=point.block_size,
        engine_args=arguments,
    )


def full_token_bytes(facts: Any) -> int:
    """Bytes of a token if every layer kept what a layer of full attention keeps of it (else of the first group).

    Args:
        facts: CacheFacts of the model.
    """
    full = next((group for group in facts.groups if group.kind == "full_attention"), facts.groups[0])
    layers = sum(group.layers for group in facts.groups)
    return layers * full.page_bytes // full.block_size


def _retention(text: str, block_size: int) -> int | None:
    return None if text == "none" else -(-int(text) // block_size) * block_size


@lru_cache
def _facts(model: str, block_size: int) -> Any:
    return cache_facts(model, arguments={"block_size": block_size})
