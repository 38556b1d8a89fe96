"""Eviction of prefix-cache blocks: policies, and a compiled cache that runs them. Imports neither vllm nor torch."""
