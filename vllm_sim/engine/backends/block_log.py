"""What happens to blocks, as a ledger notes it for compiled code: a log of whole numbers.

Entries follow each other: the event; how many blocks; the moment by each of three clocks; and FIELDS numbers about the
request, which TAKEN and CACHED of a ledger of one group have (ledger_kernel.py); then the blocks, vLLM's numbers.
numba does not see that this file has changed: its cache looks at those of the compiled functions (lifetimes.py,
ledger_kernel.py).
"""

CACHED, RELEASED, HIT, RETURNED, TAKEN = range(5)
"""Blocks got their hashes, one after the other in a prompt; nobody uses them any more; they are hit; hit by a request
that returns from a preemption; allocated, and what was cached in them is evicted."""

CLOCKS = ("computed_tokens", "requests", "virtual_ms")
BLOCKS, MOMENT = 1, 2
ABOUT = MOMENT + len(CLOCKS)
FIELDS = 5
REQUEST, BEFORE, PROMPT, LOADED, LOADED_END = range(ABOUT, ABOUT + FIELDS)
"""The request's number. Of CACHED: the block before the first, or -1; the place of the first that holds a generated
token; from where to where blocks hold what they held before (tier_ledger.py)."""
HEAD = ABOUT + FIELDS
"""Where the blocks begin."""
