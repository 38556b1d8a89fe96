"""The row of any run of study one."""

from milestone2_code.study.study import EnginePoint, Point, Study
from vllm_sim.provenance import load_entry
from vllm_sim.replay.rows import Row

AnyPoint = Point | EnginePoint
MAKERS = {
    "cache": "milestone2_code.study.cache_rows:cache_row",
    "engine": "milestone2_code.study.timed:engine_row",
}
FULL_CONVERSATIONS = 2000
"""Rows from fewer are marked as quick."""


def maker_of(point: AnyPoint) -> str:
    """The entry of what makes the row of a run."""
    return MAKERS["engine" if isinstance(point, EnginePoint) else "cache"]


def rows_of(study: Study, point: AnyPoint) -> list[Row]:
    """The row of a run."""
    row: Row = load_entry(maker_of(point))(study, point)
    conversations = len({record.session_id for record in study.chats(point.workload).records})
    is_quick = study.quick or conversations < FULL_CONVERSATIONS
    return [row | {"conversations": conversations, "data": study.source(), "quick": is_quick}]
