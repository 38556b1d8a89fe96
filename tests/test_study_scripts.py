"""The scripts of the studies say what they do, wherever they are started."""

from pathlib import Path

import pytest

from tests.commands import ROOT, script

SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("milestone?_code/*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_what_it_does_from_any_folder(name: str, tmp_path: Path) -> None:
    done = script(name, "--help", folder=tmp_path)
    assert (done.returncode, done.stdout.startswith(f"usage: {Path(name).name}")) == (0, True)
