"""The backends by name: what serves the requests of a run. Each is imported when it is used."""

BACKENDS = {
    "engine": "vllm_sim.replay.engine_backend:run_engine",
    "blockpool": "vllm_sim.engine.backends.blockpool:run",
    "fast": "vllm_sim.eviction.simulate:simulate",
}
"""What serves the requests, imported when it is used."""
CACHES = {
    "blockpool": "vllm_sim.engine.backends.blockpool:PoolCache",
    "fast": "vllm_sim.eviction.simulate:SimulatedCache",
}
"""What a replica of a fleet is, of the backends without a schedule."""
TIERS = {
    "0.32": "vllm_sim.eviction.tiers:simulate_tiers",
    "0.33": "vllm_sim.eviction.tiers:simulate_ranked_tiers",
}
"""What serves them on `fast` where blocks are in CPU memory too, by the version of vLLM whose memory that is."""
CACHE_OF_GROUPS = {
    "blockpool": "vllm_sim.replay.engine_backend:run_cache",
    "fast": "vllm_sim.replay.engine_backend:run_groups",
}
"""What serves them where layers do not all keep the same, of a backend that has something else for those."""
