"""Everything that imports vllm: the platform, the executor, the block pool. This file itself imports nothing of it."""

from vllm_sim.vllm_version import check_not_hidden

check_not_hidden()  # else the first import of vllm says only that it has no such module
