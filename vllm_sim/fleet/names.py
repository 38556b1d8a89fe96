"""Names of routers, and where each is; nothing is imported here."""

ROUTERS = {
    "round_robin": "vllm_sim.fleet.routers.round_robin:RoundRobinRouter",
    "random": "vllm_sim.fleet.routers.random:RandomRouter",
    "least_loaded": "vllm_sim.fleet.routers.least_loaded:LeastLoadedRouter",
    "session": "vllm_sim.fleet.routers.session:SessionRouter",
    "prefix_hash": "vllm_sim.fleet.routers.prefix_hash:PrefixHashRouter",
    "prefix_tree": "vllm_sim.fleet.routers.prefix_tree:PrefixTreeRouter",
    "kv_events": "vllm_sim.fleet.routers.kv_events:KVEventsRouter",
    "cost": "vllm_sim.fleet.routers.cost:CostRouter",
    "oracle": "vllm_sim.fleet.routers.oracle:OracleRouter",
}
"""The path `module:Class` of this package's routers."""
DEFAULT = "round_robin"
"""Where a fleet names none."""
