"""Checks every line of a trace, as a stream; nothing is changed.

What every reader refuses is found: lines that are no records, and chats that no template may be given. Whether a
model's own template takes a chat, and its tokenizer a response, is found where the model is given.
"""

from collections.abc import Iterator
from pathlib import Path

from vllm_sim.trace.files import OnBytes, iter_raw_lines, parse_bytes, pass_over_unfinished
from vllm_sim.trace.messages import check_template_options, normalise
from vllm_sim.trace.record import TraceError
from vllm_sim.trace.tokens import check_tokens
from vllm_sim.trace.vocabulary import Vocabulary


def find_faults(
    path: Path, on_bytes: OnBytes | None = None, vocabulary: Vocabulary | None = None
) -> Iterator[TraceError | None]:
    """Yields for every line that is not blank None if it can be replayed, else what is wrong with it.

    A record that its recorder has not finished is neither; a warning says so.

    Args:
        path: The trace.
        on_bytes: Called with the number of bytes that were read.
        vocabulary: Of the model that is to answer; without it chats are not rendered and nothing is tokenised.

    A file that cannot be read further, or that holds no record, gives one fault more at the end.
    """
    lines = 0
    try:
        for number, line in iter_raw_lines(path, on_bytes):
            if pass_over_unfinished(path, number, line):
                continue
            lines += 1
            try:
                record = parse_bytes(line)
                normalise(record.messages or [])
                check_template_options(record.chat_template_kwargs)
                if vocabulary is not None:
                    check_tokens(record, vocabulary)
            except ValueError as error:
                yield TraceError(path, number, str(error))
            else:
                yield None
    except TraceError as error:
        yield error
        return
    if not lines:
        yield TraceError(path, 0, "the file holds no record")
