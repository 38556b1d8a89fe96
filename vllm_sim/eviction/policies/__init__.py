"""Eviction policies, an idea a file; `vllm_sim.eviction.names` lists them."""
