"""`vllm-sim trace validate`, `trace stats`, `trace convert`, `trace hints`."""

import argparse
from pathlib import Path

from vllm_sim.cli.model import DEFAULT_MODEL, given_or_default

# The names of vllm_sim.trace.formats.CONVERTERS, which would have to be imported to be read; a test compares them.
FORMATS = (
    "sharegpt", "openai", "mooncake", "bailian", "vllm-custom", "weka", "tracelab", "mooncake-agentic", "lmcache",
    "claude-code", "codex", "otel", "kv-events", "native",
)  # fmt: skip


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    group = commands.add_parser("trace", help="check, describe and convert traces")
    actions = group.add_subparsers(title="commands", required=True, metavar="COMMAND")
    validate = actions.add_parser(
        "validate",
        help="report every line that is not a record; exit code 1 if there is one",
        epilog="example: vllm-sim trace validate trace.jsonl other.jsonl.zst",
    )
    validate.add_argument("files", nargs="+", type=Path, metavar="FILE", help="native trace (.jsonl, .gz, .zst)")
    validate.add_argument(
        "--model", type=Path, metavar="FOLDER", help="render chats and tokenise too, as a replay with this model does"
    )
    validate.set_defaults(run=run_validate)
    _add_stats(actions)
    _add_convert(actions)
    _add_hints(actions)


def _add_stats(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    stats = actions.add_parser(
        "stats",
        help="requests, sessions, lengths, and how much of the prefixes comes again",
        epilog="example: vllm-sim trace stats trace.jsonl --block-sizes 16,64 --json",
    )
    stats.add_argument("file", type=Path, metavar="FILE", help="native trace (.jsonl, .gz, .zst)")
    stats.add_argument("--json", action="store_true", help="a JSON object instead of tables")
    stats.add_argument("--block-sizes", type=_sizes, metavar="B,B", help="in tokens (default: 16 to 512 that fit)")
    _add_model(stats)
    stats.set_defaults(run=run_stats)


def _add_convert(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    convert = actions.add_parser(
        "convert",
        help="make a native trace of another format, or an anonymous one",
        epilog="examples: vllm-sim trace convert --from sharegpt dump.json trace.jsonl.zst | "
        "vllm-sim trace convert --from native trace.jsonl shared.jsonl --anonymise --block-size 16 | "
        "vllm-sim trace convert --from claude-code ~/.claude/projects mine.jsonl.zst --hash-only",
    )
    convert.add_argument("--from", dest="format", choices=FORMATS, help="format of IN (default: it is guessed)")
    convert.add_argument("source", type=Path, metavar="IN", help="file or folder to read; .gz and .zst are unpacked")
    convert.add_argument("out", type=Path, metavar="OUT", help="trace to write; packed if it ends in .gz or .zst")
    convert.add_argument("--workload", metavar="TAG", help="tag for every request")
    convert.add_argument(
        "--turns",
        choices=("all", "first", "last"),
        default="all",
        help="assistant turns that become requests; sharegpt and openai (default: %(default)s)",
    )
    convert.add_argument(
        "--output-tokens", type=int, metavar="N", help="vllm-custom, lmcache: generated tokens where a row names none"
    )
    convert.add_argument(
        "--hash-only",
        action="store_true",
        help="claude-code, codex, otel: no texts, but hash ids as long as the provider counted",
    )
    convert.add_argument(
        "--skip-chat-template", action="store_true", help="vllm-custom: a prompt is plain text, not a user's turn"
    )
    convert.add_argument("--strict", action="store_true", help="stop at the first line or turn that would be left out")
    convert.add_argument("--report", type=Path, metavar="FILE", help="write what was dropped or repaired as JSON")
    convert.add_argument(
        "--anonymise", action="store_true", help="hash ids in place of texts; lengths and times are kept"
    )
    convert.add_argument("--block-size", type=int, metavar="B", help="tokens an anonymous id stands for (default: 16)")
    convert.add_argument("--salt", help="secret of the hashes (default: a random one that nobody keeps)")
    _add_model(convert)
    convert.set_defaults(run=run_convert)


def _add_hints(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    hints = actions.add_parser(
        "hints",
        help="add what clients could have said of their sessions: when they end, when they go on",
        epilog="example: vllm-sim trace hints trace.jsonl hinted.jsonl --share 0.5 --noise 1 --lies 0.1",
    )
    hints.add_argument("source", type=Path, metavar="IN", help="native trace (.jsonl, .gz, .zst)")
    hints.add_argument("out", type=Path, metavar="OUT", help="trace to write; packed if it ends in .gz or .zst")
    hints.add_argument(
        "--kinds",
        default="end,next",
        metavar="K,K",
        help="end: session_end, next: next_turn_ms, retention: retention_priority and _ms (default: %(default)s)",
    )
    hints.add_argument("--share", type=float, default=1.0, help="of sessions whose client says anything (default: 1)")
    hints.add_argument("--noise", type=float, default=0.0, help="sigma of the log-normal error of times (default: 0)")
    hints.add_argument("--lies", type=float, default=0.0, help="share of hints that are lies (default: 0)")
    hints.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    hints.set_defaults(run=run_hints)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="FOLDER", help=f"model folder, which texts need (default: {DEFAULT_MODEL} if it is there)"
    )


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, as in 16,64") from None


def run_validate(options: argparse.Namespace) -> int:
    from vllm_sim.terminal import byte_bar, say
    from vllm_sim.trace.validate import find_faults

    failed = False
    vocabulary = None
    if options.model is not None:
        from vllm_sim.trace.vocabulary import Vocabulary

        vocabulary = Vocabulary(options.model)
    for path in options.files:
        records = faults = 0
        with byte_bar(path.name, path) as on_bytes:
            for fault in find_faults(path, on_bytes, vocabulary):
                if fault is None:
                    records += 1
                else:
                    faults += 1
                    say(fault)
        say(f"{path}: {records} records, {faults} faults")
        failed = failed or faults > 0
    return int(failed)


def run_stats(options: argparse.Namespace) -> None:
    import json

    from vllm_sim.terminal import byte_bar
    from vllm_sim.trace.show import show_stats
    from vllm_sim.trace.stats import trace_stats

    with byte_bar(options.file.name, options.file) as on_bytes:
        stats = trace_stats(options.file, given_or_default(options.model), options.block_sizes, on_bytes)
    if options.json:
        print(json.dumps(stats, indent=2))
    else:
        show_stats(stats)


def run_convert(options: argparse.Namespace) -> None:
    from vllm_sim.terminal import say
    from vllm_sim.trace.convert import Anonymity, convert, write_report
    from vllm_sim.trace.formats import Options

    model = given_or_default(options.model)
    anonymity = Anonymity(model, options.block_size, options.salt) if options.anonymise else None
    settings = Options(
        turns=options.turns,
        output_tokens=options.output_tokens,
        chat_template=not options.skip_chat_template,
        strict=options.strict,
        hash_only=options.hash_only,
    )
    done = convert(options.source, options.out, options.format, settings, options.workload, anonymity)
    for line in done.report.lines():
        say(line, to_stderr=True)
    if options.report:
        write_report(options.report, done)
    say(f"{options.out}: {done.requests} requests, {len(done.sessions)} sessions")


def run_hints(options: argparse.Namespace) -> None:
    from vllm_sim.terminal import say
    from vllm_sim.trace.hinting import Hinting, add_hints

    hinting = Hinting(options.kinds.split(","), options.share, options.noise, options.lies, options.seed)
    done = add_hints(options.source, options.out, hinting)
    say(f"{options.out}: hints in {done.hinted_requests} of {done.requests} requests, {done.sessions} sessions")
