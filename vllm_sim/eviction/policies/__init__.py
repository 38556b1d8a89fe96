"""Eviction policies, an idea a file; `vllm_sim.eviction.registry` names them."""
