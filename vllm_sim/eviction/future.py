"""The uses of each node by later requests, for a policy that is given the future (`belady`)."""

import numpy as np

from vllm_sim.eviction.chains import Array, Chains


def future(chains: Chains, capacity: int, of: Array | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The requests of each node, for PolicyContext.uses and PolicyContext.first_use; rejected requests use nothing.

    Args:
        chains: the requests.
        capacity: blocks there are.
        of: the rows that the cache serves; None: all.
    """
    counts = np.diff(chains.begins)
    rows = np.repeat(np.arange(counts.size), counts)
    within = np.arange(rows.size) - chains.begins[rows]
    served = chains.need <= capacity
    if of is not None:
        served &= np.isin(np.arange(served.size), of)
    served = served[rows]
    nodes = chains.nodes[served]
    uses = (2 * rows + (within >= chains.hittable[rows]))[served]
    order = np.argsort(nodes, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(nodes, minlength=chains.working_set))])
    return uses[order], first
