"""Mooncake traces: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` (512-token blocks, each id standing
for the whole prefix up to its block). Read: kvcache-ai/Mooncake, FAST25-release. Other keys are kept.
"""

from collections.abc import Iterator
from pathlib import Path

from vllm_sim.trace.files import iter_objects
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.record import Record, TraceError, parse_record

BLOCK_SIZE_TOKENS = 512
FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields a record a line, in the file's order.

    Raises:
        TraceError: a line that breaks the format.
    """
    for line, row in iter_objects(path, options.on_bytes):
        missing = [name for name in FIELDS if row.get(name) is None]
        if missing:
            raise TraceError(path, line, f"{' and '.join(missing)} missing; a Mooncake row has {', '.join(FIELDS)}")
        try:
            yield parse_record({"hash_block_size": BLOCK_SIZE_TOKENS, **row})
        except ValueError as error:
            raise TraceError(path, line, str(error)) from None
