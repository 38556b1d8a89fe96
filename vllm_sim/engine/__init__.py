"""Everything that imports vllm: the platform, the executor, the block pool. This file itself imports nothing."""
