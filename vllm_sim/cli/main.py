"""`vllm-sim`: one subcommand a module of this package, each with `add_parser(subparsers)`.

Parsers are built from the modules' own text, so a command module imports what it needs inside its function:
`vllm-sim --help` must not wait for vllm, torch or numpy.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from vllm_sim import __version__
from vllm_sim.cli import (
    calibrate,
    explain,
    model,
    plan,
    plot,
    policy,
    record,
    replay,
    report,
    router,
    rows,
    sweep,
    trace,
    workload,
)
from vllm_sim.extras import missing
from vllm_sim.terminal import say
from vllm_sim.vllm_version import VersionError

COMMANDS = (calibrate, explain, model, plan, plot, policy, record, replay, report, router, rows, sweep, trace, workload)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vllm-sim", description="A laboratory for prefix sharing in LLM serving.")
    parser.add_argument("--version", action="version", version=f"vllm-sim {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0, or 1 after an error, or 2 for wrong arguments."""
    options = build_parser().parse_args(arguments)
    try:
        code = options.run(options) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has left, as `head` does; what is still buffered would fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, VersionError) as error:
        say(f"vllm-sim: error: {error}", to_stderr=True)
        return 1
    except MemoryError:
        say("vllm-sim: error: not enough memory for this trace, capacity and block size", to_stderr=True)
        return 1
    except ImportError as error:
        say(f"vllm-sim: error: {missing(error)}", to_stderr=True)
        return 1
    except KeyboardInterrupt:
        return 130
