"""Workloads: traces made from conversations and other sources. Imports neither vllm nor torch."""
