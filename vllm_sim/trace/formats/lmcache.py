"""LMCache's lookup-hash logs (`lmcache server --lookup-hash-log-dir DIR`): a request a line, in rotating files.

Fields: `timestamp` (s since 1970), `request_id`, `model_name`, `chunk_size` (tokens), `seq_len` (prompt tokens),
`chunk_hashes` (texts, of the full chunks). The log has no answers: each request gets --output-tokens, 1 unless given.
`model_name` becomes the tag `workload`. Not checked against a real file: fields are those of the README of LMCache's
cache simulator.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.formats.fields import name_of, number, refuse, whole_number
from vllm_sim.trace.formats.lines import convert_lines
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.formats.sources import by_arrival, files_of
from vllm_sim.trace.record import Record, parse_record


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields the requests of a file, or of all files of a folder, by their times; a bad line is left out."""
    numbers: dict[tuple[Any, int, str], int] = {}
    timed: list[tuple[float, Record]] = []

    def keep(row: dict[str, Any], line: int) -> list[Record]:
        timed.append((number(row, "timestamp") * 1000, _record(row, numbers, options.output_tokens)))
        return []

    for file in files_of(path, "lookup_hashes_*.jsonl", "*.jsonl"):
        for _ in convert_lines(file, options, report, keep):
            pass
    yield from by_arrival(timed)


def _record(row: dict[str, Any], numbers: dict[tuple[Any, int, str], int], output_tokens: int | None) -> Record:
    size, hashes, model = whole_number(row, "chunk_size", 1), row.get("chunk_hashes"), row.get("model_name")
    if not isinstance(hashes, list) or not all(isinstance(one, str) for one in hashes):
        raise refuse("chunk_hashes", hashes, "a list of texts")
    values = {
        "id": name_of(row, "request_id"),
        "workload": model if isinstance(model, str) else None,
        "hash_ids": [numbers.setdefault((model, size, one), len(numbers)) for one in hashes],
        "hash_block_size": size,
        "input_length": whole_number(row, "seq_len", 1),
        "output_length": 1 if output_tokens is None else output_tokens,
    }
    return parse_record({name: value for name, value in values.items() if value is not None})
