"""What `fast` and `blockpool`, which serve one request after the other, make of a trace's requests."""

from collections.abc import Sequence

from vllm_sim.engine.version import installed_version
from vllm_sim.eviction.chains import Chains, Requests
from vllm_sim.provenance import load_entry
from vllm_sim.replay.rows import Found, Outcome, generated_blocks, request_row
from vllm_sim.replay.settings import BACKENDS, Settings
from vllm_sim.trace.record import Record


def serve_cache(requests: Requests, chains: Chains, records: Sequence[Record], settings: Settings) -> Outcome:
    """What `fast` or `blockpool` make of requests and their chains, which many runs may share."""
    if settings.backend == "blockpool":
        installed_version()  # its module imports vLLM
    serve = load_entry(BACKENDS[settings.backend])
    run = serve(chains, settings.policy, settings.capacity_blocks, settings.policy_params, settings.seed)
    rows = []
    for row, record in enumerate(records):
        evictor = int(run.evicted_by[row])
        found = Found(
            hit=int(run.hit[row]),
            hit_generated=int(run.hit_generated[row]),
            cold=int(run.cold[row]),
            evicted=int(run.missed[row]),
            evicted_by=None if evictor < 0 else evictor,
            allocated=int(run.allocated[row]),
        )
        rejected = bool(run.rejected[row])
        prompt, output = int(requests.prompt_tokens[row]), 0 if rejected else int(requests.output_tokens[row])
        values = request_row(row, record, prompt, output, settings.block_size, rejected, found, settings.raw_blocks)
        rows.append(values)
    tail = {
        "working_set_blocks": chains.working_set,
        "evicted_blocks": run.evicted_blocks,
        "orphan_blocks": run.orphan_blocks,
    }
    if not settings.raw_blocks:
        tail |= generated_blocks(records)
    return Outcome(rows, tail, {})
