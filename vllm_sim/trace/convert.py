"""Converts a file of a foreign format into a native trace, as a stream."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from msgspec import structs

from vllm_sim.terminal import byte_bar
from vllm_sim.trace.anonymise import anonymise
from vllm_sim.trace.files import open_output, write_records
from vllm_sim.trace.formats import CONVERTERS, Dropped, Options, Report
from vllm_sim.trace.formats.guess import guess_format
from vllm_sim.trace.record import Record


@dataclass(slots=True)
class Converted:
    """What came out of a conversion."""

    report: Report
    requests: int = 0
    sessions: set[str | int] = field(default_factory=set)
    """Ids of the sessions: the one thing besides a converter's own that grows with the file."""


@dataclass(frozen=True, slots=True)
class Anonymity:
    """How a trace is made anonymous; see vllm_sim.trace.anonymise."""

    model: str | Path | None
    """The model's folder; None does where the trace has no text."""
    block_size: int | None = None
    """Tokens; 16 unless given."""
    salt: str | None = None
    """Random unless given."""


def convert(
    source: Path,
    out: Path,
    format: str | None = None,
    options: Options | None = None,
    workload: str | None = None,
    anonymity: Anonymity | None = None,
) -> Converted:
    """Writes a native trace; it appears under its name only when it is whole.

    Args:
        source: The file to read, of some formats a folder.
        out: The trace to write; packed if its suffix is .gz or .zst.
        format: A name of CONVERTERS; None: it is guessed.
        options: Settings for the converter; the progress bar replaces its on_bytes.
        workload: A tag for every request, in place of its own.
        anonymity: Set for hash ids in place of texts. What is written between the two steps lies in the folder for
            temporary files, and is deleted.

    Raises:
        ValueError: the format is not known or cannot be guessed, `out` is `source`, or there is nothing to write.
        TraceError: the source breaks its format.
    """
    if format is None:
        format = guess_format(source)
    if format not in CONVERTERS:
        raise ValueError(f"format {format!r}; allowed: {', '.join(CONVERTERS)}")
    if out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f"{out} is the file that is read; allowed: another name")
    if anonymity is None:
        return _convert(source, out, format, options, workload)
    with tempfile.TemporaryDirectory(prefix="vllm-sim-") as folder:
        native = Path(folder) / f"{source.name}.jsonl"
        done = _convert(source, native, format, options, workload)
        with byte_bar("anonymising", native) as on_bytes:
            anonymise(native, out, anonymity.model, anonymity.block_size, anonymity.salt, on_bytes)
    return done


def write_report(path: Path, done: Converted) -> None:
    """Writes what a conversion kept, dropped and repaired as JSON."""
    counts = {"requests": done.requests, "sessions": len(done.sessions)}
    with open_output(path) as file:
        file.write(json.dumps(counts | done.report.to_json(), indent=2) + "\n")


def _convert(source: Path, out: Path, format: str, options: Options | None, workload: str | None) -> Converted:
    result = Converted(Report(strict=options is not None and options.strict))
    with byte_bar(source.name, source) as on_bytes:
        chosen = replace(options or Options(), on_bytes=on_bytes)
        records = CONVERTERS[format](source, chosen, result.report)
        try:
            write_records(out, _counted(records, result, source, workload))
        except Dropped as dropped:
            raise ValueError(f"{source}: {dropped}; left out without --strict") from None
    return result


def _counted(records: Iterator[Record], result: Converted, source: Path, workload: str | None) -> Iterator[Record]:
    for record in records:
        result.requests += 1
        if record.session_id is not None:
            result.sessions.add(record.session_id)
        yield record if workload is None else structs.replace(record, workload=workload)
    if not result.requests:
        # Raised here, within the writer, so that no empty trace stays.
        reasons = "; ".join(result.report.lines())
        raise ValueError(f"{source}: no request in it{f' ({reasons})' if reasons else ''}")
