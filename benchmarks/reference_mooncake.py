"""Hit rates on the Mooncake conversation trace (FAST'25 release) next to published numbers.

    python -m benchmarks.reference_mooncake conversation_trace.jsonl

Raw blocks, one request after the other: block hit rate; for `lru` and `belady` also the token hit rate with the first
30 % of the requests as warm-up, as kvcache-simulator 0.1.3 counts it; its optimum is that of a cache which keeps no
room for a running request. For an unlimited cache also vLLM's own rules.
"""

import json
import sys
from pathlib import Path

import numpy as np

from tests.eviction.test_optimum import hits_without_room_for_the_request
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.registry import POLICIES
from vllm_sim.eviction.simulate import Run, simulate

BLOCK_SIZE, CAPACITIES, WARMUP = 512, (1000, 3000, 10_000, 30_000, 50_000, 100_000), 0.3


def load(path: Path) -> Requests:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    none = np.zeros(len(rows), np.int64)
    return Requests(
        np.array([block for row in rows for block in row["hash_ids"]]),
        np.cumsum([0, *(len(row["hash_ids"]) for row in rows)]),
        np.array([row["input_length"] for row in rows]),
        np.array([row["output_length"] for row in rows]),
        none,
        none,
    )


def block_rate(run: Run, chains: Chains) -> float:
    return float(run.hit.sum() / chains.prompt.sum())


def token_rate(hit: np.ndarray, requests: Requests, warmup: float = 0.0) -> float:
    begin = int(warmup * hit.size)
    tokens = requests.prompt_tokens[begin:]
    return float(np.minimum(hit[begin:] * BLOCK_SIZE, tokens).sum() / tokens.sum())


def main(path: Path) -> None:
    requests = load(path)
    raw = link(requests, BLOCK_SIZE, raw=True)
    print(f"{'blocks':>12}", *(f"{capacity:>7,}" for capacity in CAPACITIES))
    for name, policy, params in [("plain lfu", "lfu", {"ageing": 0}), *((name, name, {}) for name in POLICIES)]:
        runs = [simulate(raw, policy, capacity, params) for capacity in CAPACITIES]
        print(f"{name:>12}", *(f"{block_rate(run, raw):>7.4f}" for run in runs))
        if policy in ("lru", "belady"):
            print(f"{'warm tokens':>12}", *(f"{token_rate(run.hit, requests, WARMUP):>7.4f}" for run in runs))
    free = [hits_without_room_for_the_request(raw, capacity) for capacity in CAPACITIES]
    print(f"{'no room kept':>12}", *(f"{token_rate(hit, requests, WARMUP):>7.4f}" for hit in free))
    for name, chains in (("raw", raw), ("vllm", link(requests, BLOCK_SIZE, named_tails=True))):
        run = simulate(chains, "lru", None)
        print(f"unlimited, {name}: block {block_rate(run, chains):.4f}, token {token_rate(run.hit, requests):.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
