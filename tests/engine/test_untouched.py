"""What an installed vllm_sim that nobody asked for changes in vLLM: one function, and no class, method or step."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import MODEL

ROOT = Path(__file__).parents[2]


def engine(plugins: str | None) -> dict[str, Any]:
    """What tests.engine.untouched prints on vLLM's CPU platform, with these plugins (None: all that are installed)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    environment |= {"VLLM_TARGET_DEVICE": "cpu"} | ({} if plugins is None else {"VLLM_PLUGINS": plugins})
    command = [sys.executable, "-m", "tests.engine.untouched", str(MODEL)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1100)
def test_an_installed_package_that_nobody_asks_for_changes_one_function_and_no_step() -> None:
    groups = ("vllm.general_plugins", "vllm.platform_plugins")
    names = [plugin.name for group in groups for plugin in importlib.metadata.entry_points(group=group)]
    assert names.count("vllm_sim") >= 2
    without = engine(",".join(name for name in names if name != "vllm_sim"))
    with_it = engine(None)
    assert with_it["classes"] == without["classes"]
    assert with_it["classes"] == [
        "vllm.v1.core.sched.scheduler.Scheduler",
        "vllm.v1.core.kv_cache_manager.KVCacheManager",
        "vllm.v1.core.block_pool.BlockPool",
        "vllm.v1.core.kv_cache_utils.FreeKVCacheBlockQueue",
    ]
    assert with_it["steps"] == without["steps"]
    assert len(with_it["steps"]) > 20
    ours, upstream = with_it["functions"], without["functions"]
    both = ours.keys() & upstream.keys()  # what vLLM loads to inspect the model's class depends on its cache
    assert len(both) > 4000
    assert {path for path in both if ours[path] != upstream[path]} == {"vllm.config.vllm:VllmConfig.__post_init__"}
    assert not [path for path, place in ours.items() if "vllm_sim" in place and path not in both]
