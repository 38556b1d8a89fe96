"""vllm_sim: a laboratory for prefix sharing in LLM serving on an unmodified vLLM.

The public names are those of `__all__`, described in docs/api.md; each is imported when it is first used. This file
itself imports nothing: vLLM loads the package's plugins while it resolves its platform, and an import of vLLM here
would re-enter that and drop the plugin silently.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vllm_sim.eviction.compiled import compiled
    from vllm_sim.eviction.policy import Policy
    from vllm_sim.eviction.priority import PriorityPolicy
    from vllm_sim.fleet.router import Router
    from vllm_sim.replay.config import RunConfig, config_of
    from vllm_sim.replay.ladder import explain
    from vllm_sim.replay.outcome import request_results
    from vllm_sim.replay.rows import RequestResult, RunSummary
    from vllm_sim.replay.run import Loaded, Result, load, run
    from vllm_sim.sweep.results import read_rows
    from vllm_sim.trace.files import iter_records, write_records
    from vllm_sim.trace.record import Record, TraceError
    from vllm_sim.trace.stats import trace_stats
    from vllm_sim.vllm_version import VersionError

__version__ = "0.1.0"

__all__ = [
    "Loaded",
    "Policy",
    "PriorityPolicy",
    "Record",
    "RequestResult",
    "Result",
    "Router",
    "RunConfig",
    "RunSummary",
    "TraceError",
    "VersionError",
    "compiled",
    "config_of",
    "explain",
    "iter_records",
    "load",
    "read_rows",
    "request_results",
    "run",
    "trace_stats",
    "write_records",
]

# A registry, as provenance.py has it: a row depends on none of these because of this file.
_PUBLIC = {
    "Loaded": "vllm_sim.replay.run:Loaded",
    "Policy": "vllm_sim.eviction.policy:Policy",
    "PriorityPolicy": "vllm_sim.eviction.priority:PriorityPolicy",
    "Record": "vllm_sim.trace.record:Record",
    "RequestResult": "vllm_sim.replay.rows:RequestResult",
    "Result": "vllm_sim.replay.run:Result",
    "Router": "vllm_sim.fleet.router:Router",
    "RunConfig": "vllm_sim.replay.config:RunConfig",
    "RunSummary": "vllm_sim.replay.rows:RunSummary",
    "TraceError": "vllm_sim.trace.record:TraceError",
    "VersionError": "vllm_sim.vllm_version:VersionError",
    "compiled": "vllm_sim.eviction.compiled:compiled",
    "config_of": "vllm_sim.replay.config:config_of",
    "explain": "vllm_sim.replay.ladder:explain",
    "iter_records": "vllm_sim.trace.files:iter_records",
    "load": "vllm_sim.replay.run:load",
    "read_rows": "vllm_sim.sweep.results:read_rows",
    "request_results": "vllm_sim.replay.outcome:request_results",
    "run": "vllm_sim.replay.run:run",
    "trace_stats": "vllm_sim.trace.stats:trace_stats",
    "write_records": "vllm_sim.trace.files:write_records",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = _PUBLIC[name].partition(":")
    globals()[name] = found = getattr(import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
