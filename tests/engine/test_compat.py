"""The table of what is changed in vLLM, and the access to fields of its configuration."""

import dataclasses
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm.config import CacheConfig, VllmConfig
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.engine.core import EngineCore

from vllm_sim.engine import compat, contact
from vllm_sim.engine.backends.blockpool import make_manager
from vllm_sim.engine.contact import Absent, configure, field
from vllm_sim.engine.pool import PolicyBlockPool
from vllm_sim.vllm_version import VersionError

VERSION = importlib.metadata.version("vllm")


@pytest.fixture(autouse=True)
def applied_again() -> Iterator[None]:
    yield
    compat.apply()  # as every engine of this process found it


def test_apply_rebinds_once_and_revert_gives_upstreams_own_back() -> None:
    compat.revert()
    upstream = EngineCore.preprocess_add_request, VllmConfig.__post_init__
    compat.apply()
    rebound = EngineCore.preprocess_add_request, VllmConfig.__post_init__
    compat.apply()
    assert (EngineCore.preprocess_add_request, VllmConfig.__post_init__) == rebound
    assert not set(rebound) & set(upstream)
    compat.revert()
    assert (EngineCore.preprocess_add_request, VllmConfig.__post_init__) == upstream
    compat.revert()
    assert (EngineCore.preprocess_add_request, VllmConfig.__post_init__) == upstream


@pytest.mark.parametrize("row", compat.TABLE, ids=lambda row: row.name)
def test_every_row_says_why_and_until_when_and_the_installed_vllm_has_its_target(row: contact.Contact) -> None:
    assert all(getattr(row, field.name) for field in dataclasses.fields(row))
    row.check()


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in compat.TABLE]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    "target", ["vllm.v1.engine.core:EngineCore.none", "vllm.v1.engine.core:None_.x", "vllm.v1.none:EngineCore.x"]
)
@pytest.mark.parametrize("row", compat.TABLE, ids=lambda row: row.name)
def test_a_target_that_is_not_there_raises_and_names_the_version(row: Any, target: str) -> None:
    moved = dataclasses.replace(row, target=target)
    with pytest.raises(VersionError, match=f"vllm {VERSION} has no {target}"):
        moved.check()
    with pytest.raises(VersionError, match=f"vllm {VERSION} has no {target}"):
        moved.apply() if isinstance(row, contact.Rebinding) else moved.put(make_manager(3), 7)


def test_a_rebinding_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no rebinding is named 'pool'; allowed: finish, eviction"):
        compat.apply("pool")


def test_a_method_whose_parameters_have_changed_is_not_replaced() -> None:
    manager = make_manager(3)
    row = dataclasses.replace(compat.CACHE, parameters=("request", "computed"))
    with pytest.raises(
        VersionError, match="with the parameters request, computed: it has request, num_computed_tokens"
    ):
        row.put(manager, print)
    assert "cache_blocks" not in vars(manager)


def test_only_an_object_of_the_named_class_is_changed() -> None:
    manager = make_manager(3)
    with pytest.raises(VersionError, match="this one is a BlockPool"):
        compat.CACHE.put(manager.block_pool, print)
    with pytest.raises(VersionError, match="KVCacheManager cannot become PolicyBlockPool"):
        compat.POOL.put(manager, PolicyBlockPool)
    with pytest.raises(VersionError, match="BlockPool cannot become KVCacheManager"):
        compat.POOL.put(manager.block_pool, KVCacheManager)
    assert type(manager.block_pool) is BlockPool


@pytest.mark.parametrize(("found", "expected"), [(set(), {"7"}), ({}, {"7": None})])
def test_a_member_goes_into_a_set_or_a_dict_and_nothing_else(found: Any, expected: Any) -> None:
    manager = make_manager(3)
    row = dataclasses.replace(compat.ERRORS, target="vllm.v1.core.kv_cache_manager:KVCacheManager.failed")
    setattr(manager, "failed", found)  # noqa: B010
    row.put(manager, "7")
    assert found == expected
    setattr(manager, "failed", [])  # noqa: B010
    with pytest.raises(VersionError, match="as a set or dict: it is "):
        row.put(manager, "7")


def test_a_value_of_another_type_is_not_set() -> None:
    manager = make_manager(3)
    row = dataclasses.replace(compat.MAX_LENGTH, target="vllm.v1.core.kv_cache_manager:KVCacheManager.max_model_len")
    with pytest.raises(VersionError, match=r"of type int: .* cannot become None"):
        row.put(manager, None)
    row.put(manager, 7)
    assert manager.max_model_len == 7


def test_a_field_that_vllm_does_not_have_is_an_error_and_never_a_default() -> None:
    config = VllmConfig()
    assert field(config, "watermark_config") is None
    with pytest.raises(VersionError, match=rf"vllm {VERSION} has no VllmConfig\.watermark, which vllm_sim reads"):
        field(config, "watermark")
    with pytest.raises(VersionError, match=r"has no CacheConfig\.blocksize"):
        configure(CacheConfig(), blocksize=8)


@pytest.mark.parametrize(
    ("row", "is_absent"),
    [
        (Absent("VllmConfig.watermark", before=(99,)), True),
        (Absent("VllmConfig.watermark", since=(0, 32)), True),
        (Absent("VllmConfig.watermark", before=(0, 32)), False),
        (Absent("VllmConfig.watermark", since=(99,)), False),
        (Absent("CacheConfig.watermark", before=(99,)), False),
    ],
)
def test_a_field_may_be_absent_only_in_the_versions_that_the_table_says(
    monkeypatch: pytest.MonkeyPatch, row: Absent, is_absent: bool
) -> None:
    monkeypatch.setattr(contact, "ABSENT", (row,))
    config = VllmConfig()
    if is_absent:
        assert field(config, "watermark") is None
    else:
        with pytest.raises(VersionError):
            field(config, "watermark")


def test_the_repository_says_how_many_names_are_rebound() -> None:
    rebindings = [row for row in compat.TABLE if isinstance(row, contact.Rebinding)]
    text = (Path(__file__).parents[2] / "vllm" / "README.md").read_text()
    assert len(rebindings) == 4
    assert all(row.target.rpartition(":")[2] in text for row in rebindings)
