"""The reason why a server did not start as the last thing that it says.

pydantic wraps what the platform refuses, and the interpreter prints all of vLLM's start above it, in 50 lines. A
process that such a refusal ends says it in one line; a caller that catches the exception sees it as it was raised.
"""

import functools
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

_reasons: set[str] = set()


def end_with_reason(reason: str) -> None:
    """Has this process end with a line, and no traceback, if an exception with this reason ends it."""
    if not _reasons:
        sys.excepthook = functools.partial(_report, sys.excepthook)
    _reasons.add(reason)


def _report(
    otherwise: Callable[..., Any], kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    reason = next((reason for reason in _reasons if reason in str(error)), None)
    if reason is None:
        otherwise(kind, error, trace)
    else:
        print(f"vllm_sim: error: {reason}", file=sys.stderr, flush=True)
