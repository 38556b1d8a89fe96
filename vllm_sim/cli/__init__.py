"""The command line: arguments and calls only. A command's module is imported when the command is used."""

from vllm_sim.cli.main import main

__all__ = ["main"]
