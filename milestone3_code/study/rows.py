"""The rows of any point of study two."""

from milestone3_code.study.study import Point, Study
from vllm_sim.provenance import load_entry
from vllm_sim.replay.rows import Row

EXPERIMENTS = {
    "mix": "milestone3_code.study.cache_rows:mix_row",
    "alone": "milestone3_code.study.cache_rows:mix_row",
    "loss": "milestone3_code.study.cache_rows:loss_row",
    "seeds": "milestone3_code.study.seeds:seed_row",
    "gap": "milestone3_code.study.seeds:gap_row",
    "lost": "milestone3_code.study.cache_rows:lost_row",
    "isolation": "milestone3_code.study.effects:isolation_row",
    "guarantee": "milestone3_code.study.effects:guarantee_row",
    "ablation": "milestone3_code.study.effects:ablation_row",
    "cold_start": "milestone3_code.study.effects:cold_start_row",
    "windows": "milestone3_code.study.effects:windows_row",
    "bytes": "milestone3_code.study.effects:bytes_row",
    "hash_trace": "milestone3_code.study.cache_rows:hash_row",
    "random": "milestone3_code.study.random_traffic:random_row",
    "engine": "milestone3_code.study.timed:engine_row",
}
"""What makes the row of a point; imported when it is used."""


def rows_of(study: Study, point: Point) -> list[Row]:
    """The row of a point."""
    row: Row = load_entry(EXPERIMENTS[point.experiment])(study, point)
    data = {"source": "drawn by seed"} if point.experiment == "random" else study.source(point.mix)
    return [row | {"data": data, "quick": study.quick}]
