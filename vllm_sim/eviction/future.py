"""The uses of each node by later requests, for a policy that is given the future (`belady`)."""

import numpy as np

from vllm_sim.eviction.chains import Chains


def future(chains: Chains, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """The requests of each node, for PolicyContext.uses and PolicyContext.first_use; rejected requests use nothing."""
    counts = np.diff(chains.begins)
    rows = np.repeat(np.arange(counts.size), counts)
    within = np.arange(rows.size) - chains.begins[rows]
    served = (chains.need <= capacity)[rows]
    nodes = chains.nodes[served]
    uses = (2 * rows + (within >= chains.hittable[rows]))[served]
    order = np.argsort(nodes, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(nodes, minlength=chains.working_set))])
    return uses[order], first
