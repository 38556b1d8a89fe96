"""Traces: the native format, readers and writers, and the tokens of a record. Imports neither vllm nor torch."""

from vllm_sim.trace.files import iter_records, open_output, open_text, write_records
from vllm_sim.trace.record import Record, TraceError, parse_record

__all__ = ["Record", "TraceError", "iter_records", "open_output", "open_text", "parse_record", "write_records"]
