"""A package that classes of models import for pictures, and that nothing here calls: torchvision, where it is missing.

Read: model_executor/models/qwen3_5.py of vLLM 0.32, image_processing_qwen2_vl.py of transformers 5.19. PyPI's build of
torchvision needs CUDA's libraries, and fails with a CPU build of torch.
"""

import importlib.util
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from vllm_sim.engine import compat

_MODULES = (
    "torchvision",
    "torchvision.transforms",
    "torchvision.transforms.v2",
    "torchvision.transforms.v2.functional",
)


class _StandIn(ModuleType):
    """Has any name, and an empty class under it: enough for annotations."""

    def __init__(self, name: str):
        super().__init__(name, "Stands in for a package that is not installed.")
        self.__spec__ = ModuleSpec(name, None)
        self.__path__: list[str] = []
        self.modules: dict[str, ModuleType] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.modules.get(name) or type(name, (), {})


def supply_torchvision() -> None:
    """Lets modules import torchvision where it is not installed."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    from transformers.utils import is_torchvision_available

    is_torchvision_available()  # it keeps its answer, so that nobody takes the stand-in for the package
    parent: _StandIn | None = None
    for name in _MODULES:
        module = _StandIn(name)
        if parent is not None:
            parent.modules[name.rpartition(".")[2]] = module
        compat.MODULE.put(name, module)
        parent = module
