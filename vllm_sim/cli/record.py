"""`vllm-sim record`."""

import argparse
from pathlib import Path

DEFAULT_PORT = 8001


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    record = commands.add_parser(
        "record",
        help="a proxy that records completions and chats into a trace",
        epilog="example: vllm-sim record --upstream http://localhost:8000 --out recorded.jsonl",
    )
    record.add_argument("--upstream", required=True, metavar="URL", help="an OpenAI-compatible server")
    record.add_argument("--out", required=True, type=Path, metavar="FILE", help="the trace; appended to if it is there")
    record.add_argument("--host", default="localhost", help="where to listen (default: %(default)s)")
    record.add_argument("--port", type=_port, default=DEFAULT_PORT, help="0 for a free one (default: %(default)s)")
    record.add_argument(
        "--token-ids",
        choices=("auto", "always", "never"),
        default="auto",
        help="ask upstream for token ids, which tool calls and reasoning need to replay; auto: where it is vLLM "
        "(default: %(default)s)",
    )
    record.add_argument(
        "--connect-timeout", type=_seconds, default=10.0, metavar="S", help="0 for none (default: %(default)g)"
    )
    record.add_argument(
        "--read-timeout",
        type=_seconds,
        default=600.0,
        metavar="S",
        help="longest silence of upstream, 0 for no limit (default: %(default)g)",
    )
    record.add_argument(
        "--max-body",
        type=_mebibytes,
        default=256,
        metavar="MIB",
        help="longest body of a request, 0 for any (default: %(default)g)",
    )
    record.add_argument(
        "--idle-timeout",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="close connections on which no request, or no more of one, comes; 0 for never (default: %(default)g)",
    )
    record.set_defaults(run=run_record)


def run_record(options: argparse.Namespace) -> None:
    from vllm_sim.proxy.proxy import Limits
    from vllm_sim.proxy.server import record

    record(
        options.upstream,
        options.out,
        options.host,
        options.port,
        ask_for_token_ids=options.token_ids,
        connect_timeout_s=options.connect_timeout or None,
        read_timeout_s=options.read_timeout or None,
        limits=Limits(body_bytes=(options.max_body << 20) or None, idle_s=options.idle_timeout or None),
    )


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; allowed: 0 to 65535")
    return port


def _mebibytes(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**20:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; allowed: 0 to {2**20 - 1} MiB")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; allowed: seconds, 0 or more")
    return seconds
