"""Sources of sessions by their `kind`; a new one is a module here and a line in SOURCES.

Each has `read(table)`, which takes its own keys out of the source's table, and is a Source.
"""

from collections.abc import Callable

from vllm_sim.workloads.session import Source
from vllm_sim.workloads.sources.agents import Agents
from vllm_sim.workloads.sources.documents import Documents
from vllm_sim.workloads.sources.fewshot import FewShot
from vllm_sim.workloads.sources.oneoff import OneOff
from vllm_sim.workloads.sources.trace import Trace
from vllm_sim.workloads.tables import TomlTable

SOURCES: dict[str, Callable[[TomlTable], Source]] = {
    "trace": Trace.read,
    "agents": Agents.read,
    "documents": Documents.read,
    "fewshot": FewShot.read,
    "oneoff": OneOff.read,
}
