"""The replay against real model execution: the same requests through vLLM's CPU kernels and through the simulator."""
