"""`vllm-sim model export`, `list`, `config` and `cache`."""

import argparse
import json
from pathlib import Path

DEFAULT_MODEL = "exported_models/Llama-3.2-1B-Instruct"


def given_or_default(model: str | None) -> str | None:
    """The model that an option names; else the exported one of this folder, or none where that is not there."""
    return model or (DEFAULT_MODEL if Path(DEFAULT_MODEL).is_dir() else None)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    group = commands.add_parser("model", help="model folders: configuration, maybe a tokenizer, no weights")
    actions = group.add_subparsers(title="commands", required=True, metavar="COMMAND")
    export = actions.add_parser(
        "export",
        help="build configuration and tokenizer of Llama 3.2 1B Instruct",
        epilog=f"example: vllm-sim model export --out {DEFAULT_MODEL}",
    )
    export.add_argument("--out", type=Path, default=Path(DEFAULT_MODEL), help="folder (default: %(default)s)")
    export.add_argument("--quiet", action="store_true", help="say nothing where nothing was to do")
    export.set_defaults(run=run_export)
    names = actions.add_parser("list", help="the open models whose configuration `model config` writes")
    names.add_argument("--json", action="store_true", help="print a JSON line a model, with its configuration")
    names.set_defaults(run=run_list)
    config = actions.add_parser(
        "config",
        help="write the config.json of an open model, without a tokenizer",
        epilog="example: vllm-sim model config gpt-oss-20b --out models/gpt-oss-20b",
    )
    config.add_argument("name", metavar="NAME", help="one of `vllm-sim model list`")
    config.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model's folder")
    config.set_defaults(run=run_config)
    from vllm_sim.cli.model_cache import add_cache_parser

    add_cache_parser(actions)


def run_export(options: argparse.Namespace) -> None:
    from vllm_sim.model_export import export_model

    made = export_model(options.out)
    if made or not options.quiet:
        print(f"{options.out}: {'built' if made else 'left alone, a model is there already'}")


def run_list(options: argparse.Namespace) -> None:
    from vllm_sim.models.known import known_models
    from vllm_sim.terminal import show_table

    models = known_models().values()
    if options.json:
        for model in models:
            print(json.dumps(model._asdict(), ensure_ascii=False))
        return
    rows = [
        (model.name, f"{model.parameters:,.1f}", model.config["num_hidden_layers"], model.source) for model in models
    ]
    show_table("open models", ("name", "parameters, 10^9", "layers", "source of the facts"), rows)


def run_config(options: argparse.Namespace) -> None:
    from vllm_sim.models.known import write_config

    print(f"{write_config(options.name, options.out)}: written")
