"""Mooncake traces: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` (512-token blocks, each id standing
for the whole prefix up to its block). Read: kvcache-ai/Mooncake, FAST25-release. Other keys are kept.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.formats.lines import convert_lines
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.record import Record, parse_record

BLOCK_SIZE_TOKENS = 512
FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields a record a line, in the file's order; bad lines as `convert_lines` has it."""
    return convert_lines(path, options, report, lambda row, line: [_record(row)])


def _record(row: dict[str, Any]) -> Record:
    missing = [name for name in FIELDS if row.get(name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing; a Mooncake row has {', '.join(FIELDS)}")
    return parse_record({"hash_block_size": BLOCK_SIZE_TOKENS, **row})
