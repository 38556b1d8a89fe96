"""The command line that the scripts which draw a study share."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from vllm_sim.terminal import exit_code


def draw(description: str | None, plots: Callable[[Path, Path], Iterable[Path]], root: Path, before: str) -> int:
    """Draws plots into a folder, from rows alone, and prints their names.

    Args:
        description: What the script does.
        plots: Takes the folder of the rows and that of the plots.
        root: Holds results/ and figures/ unless another folder is given.
        before: The script that makes the rows.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=description, epilog=f"the step before is {before}")
    parser.add_argument("--results", type=Path, default=root / "results", help="default: results")
    parser.add_argument("--out", type=Path, default=root / "figures", help="default: figures")
    options = parser.parse_args()

    def work() -> None:
        for path in plots(options.results, options.out):
            print(path)

    return exit_code(work)
