"""The custom dataset of `vllm bench serve`: `prompt` and, optionally, `output_tokens`, one object a line.

Faithful to vllm/benchmarks/datasets/datasets.py, CustomDataset, of vLLM 0.32: the prompt is the user's turn of a chat
unless the template is skipped. Not followed: shuffling and oversampling, and the second BOS that upstream sends when it
renders the chat itself and posts it as plain text. Other keys are kept.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.formats.fields import refuse, whole_number, without
from vllm_sim.trace.formats.lines import convert_lines
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.record import Record, parse_record


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields a record a line, in the file's order.

    Bad lines as `convert_lines` has it; one without output_tokens is bad where `options` give none either.
    """
    return convert_lines(path, options, report, lambda row, line: [_record(row, options)])


def _record(row: dict[str, Any], options: Options) -> Record:
    prompt = row.get("prompt")
    if not isinstance(prompt, str):
        raise refuse("prompt", prompt, "a text")
    if row.get("output_tokens") is not None:
        output = whole_number(row, "output_tokens", 0)
    elif options.output_tokens is not None:
        output = options.output_tokens
    else:
        raise ValueError("output_tokens is missing; allowed: a whole number (0 or more), or --output-tokens for all")
    sent: dict[str, Any] = {"prompt": prompt}
    if options.chat_template:
        sent = {"messages": [{"role": "user", "content": prompt}]}
    return parse_record({**without(row, "prompt", "output_tokens"), **sent, "output_length": output})
