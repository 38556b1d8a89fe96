"""`vllm-sim model export`."""

import argparse
from pathlib import Path

DEFAULT_MODEL = "exported_models/Llama-3.2-1B-Instruct"


def given_or_default(model: str | None) -> str | None:
    """The model that an option names; else the exported one of this folder, or none where that is not there."""
    return model or (DEFAULT_MODEL if Path(DEFAULT_MODEL).is_dir() else None)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    group = commands.add_parser("model", help="the exported model: configuration and tokenizer, no weights")
    actions = group.add_subparsers(title="commands", required=True, metavar="COMMAND")
    export = actions.add_parser(
        "export",
        help="build configuration and tokenizer of Llama 3.2 1B Instruct",
        epilog=f"example: vllm-sim model export --out {DEFAULT_MODEL}",
    )
    export.add_argument("--out", type=Path, default=Path(DEFAULT_MODEL), help="folder (default: %(default)s)")
    export.add_argument("--quiet", action="store_true", help="say nothing where nothing was to do")
    export.set_defaults(run=run_export)


def run_export(options: argparse.Namespace) -> None:
    from vllm_sim.model_export import export_model

    made = export_model(options.out)
    if made or not options.quiet:
        print(f"{options.out}: {'built' if made else 'left alone, a model is there already'}")
