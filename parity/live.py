"""A vLLM that executes a model under each eviction policy, with preemptions and with clients that leave.

Every policy that needs not know the future serves the same sessions on CPU kernels, in a process of its own, from a
cache too small for what runs; a tenth of the requests is aborted after some steps. In the end nothing may run, every
block must be free again, and memory may not have grown by more in the second half of the requests than under `lru`,
which is vLLM's own queue: the kernels' own memory grows under every policy for a while. Counts go to results/live.json.

usage: python -m parity.live [--requests N] [--policies P,P]
In the project's environment, after parity/install.sh.
"""

import argparse
import gc
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parity.engine import IMPORTS, engine_arguments, make_core, make_request
from parity.model import make_models
from parity.results import update
from parity.sides import REAL_PYTHON, ROOT, real_environment
from parity.workload import TURNS, Ask, Case, make_asks

ABORTED = 0.1
"""The share of requests whose client leaves."""
MOST_STEPS = 60
"""Within which it leaves."""
GROWTH_MIB = 50
"""More than under lru, from half of the requests to all of them."""
SOON = 8
"""A session's next turn comes before so many requests that wait, at most."""


def memory_mib() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Counted:
    """Counts what a scheduler and its block pool do."""

    def __init__(self, core: Any):
        self.preemptions = self.evictions = 0
        self.prompt_tokens = self.hit_tokens = 0
        scheduler, pool = core.scheduler, core.scheduler.kv_cache_manager.block_pool
        schedule = scheduler.schedule
        preempt, remove = scheduler._preempt_request, pool._remove_cached_block_hashes

        def counted_preempt(*args: Any, **named: Any) -> Any:
            self.preemptions += 1
            return preempt(*args, **named)

        def counted_remove(block: Any) -> Any:
            self.evictions += block.block_hash is not None
            return remove(block)

        def counted_schedule(*args: Any, **named: Any) -> Any:
            output = schedule(*args, **named)
            for new in output.scheduled_new_reqs:
                self.hit_tokens += new.num_computed_tokens
                self.prompt_tokens += len(new.prompt_token_ids)
            return output

        scheduler.schedule = counted_schedule
        scheduler._preempt_request, pool._remove_cached_block_hashes = counted_preempt, counted_remove


def serve(case: Case, models: str) -> dict[str, Any]:
    """Serves the sessions of a case; returns what was counted."""
    core = make_core(case, models, is_real=True)
    pool, counted = core.scheduler.kv_cache_manager.block_pool, Counted(core)
    asks = make_asks(case.seed, case.sessions, case.shape)
    rng, begun, steps, aborts = random.Random(case.seed), time.monotonic(), 0, 0
    texts: dict[int, list[int]] = {}
    due: list[Ask] = [ask for ask in asks if ask.after_row is None]
    leaves: dict[str, int | None] = {}
    """The step after which a client of a running request leaves."""
    served, half_mib = 0, 0.0
    while due or leaves:
        while due and len(leaves) < case.max_num_seqs:
            ask = due.pop(0)
            texts[ask.row] = ([] if ask.after_row is None else texts.pop(ask.after_row)) + ask.tokens
            core.add_request(
                *core.preprocess_add_request(make_request(ask, texts[ask.row], steps, case.shape.end_bias))
            )
            leaves[str(ask.row)] = steps + rng.randrange(MOST_STEPS) if rng.random() < ABORTED else None
        outputs, executed = core.step_fn()
        core.post_step(executed)
        steps += 1
        ended = [name for name, step in leaves.items() if step is not None and step < steps]
        core.abort_requests(ended)
        aborts += len(ended)
        for output in (one for group in (outputs or {}).values() for one in group.outputs):
            texts[int(output.request_id)].extend(output.new_token_ids)
            if output.finish_reason is not None and output.request_id not in ended:
                ended.append(output.request_id)
        for row in map(int, ended):
            del leaves[str(row)]
            served += 1
            if served == len(asks) // 2:
                half_mib = memory_mib()
            if (row + 1) % TURNS:
                due.insert(rng.randrange(1 + min(SOON, len(due))), asks[row + 1])
            else:
                del texts[row]
    while core.scheduler.has_requests():  # those that ended last are reported in one step more
        core.step_fn()
    return {
        "policy": case.policy,
        "pool": type(pool).__name__,
        "requests": served,
        "steps": steps,
        "aborts": aborts,
        "prompt_tokens": counted.prompt_tokens,
        "hit_tokens": counted.hit_tokens,
        "preemptions": counted.preemptions,
        "evictions": counted.evictions,
        "blocks": pool.num_gpu_blocks - 1,
        "free_blocks": pool.get_num_free_blocks(),
        "seconds": round(time.monotonic() - begun, 1),
        "half_mib": round(half_mib),
        "mib": round(memory_mib()),
    }


def faults(row: dict[str, Any], requests: int, lru: dict[str, Any]) -> list[str]:
    """What is wrong with what a policy served, beside what `lru` did."""
    found = []
    if row["requests"] != requests:
        found.append(f"{row['requests']} of {requests} requests have ended")
    if row["free_blocks"] != row["blocks"]:
        found.append(f"{row['free_blocks']} of {row['blocks']} blocks are free in the end")
    found += [f"no {name}" for name in ("aborts", "hit_tokens", "preemptions", "evictions") if not row[name]]
    grown, usual = (one["mib"] - one["half_mib"] for one in (row, lru))
    if grown > usual + GROWTH_MIB:
        found.append(f"memory grew by {grown} MiB in the second half, under lru by {usual}")
    return found


def serve_all(policies: Sequence[str], requests: int, models: str) -> bool:
    """Prints a line of JSON for each policy, served in a child of this process; returns whether none has failed."""
    for module in IMPORTS["real"]:
        importlib.import_module(module)
    sessions = requests // TURNS
    cases = [Case(seed=1, policy=name, sessions=sessions, capacity_blocks=50, max_model_len=1024) for name in policies]
    engine_arguments(cases[0], models).create_engine_config()  # looks at the model's class, once
    gc.freeze()  # else each engine collects at its start what was imported
    are_good = True
    for case in cases:
        child = os.fork()
        if child:
            are_good &= os.waitpid(child, 0)[1] == 0
            continue
        status = 1
        try:
            print(json.dumps(serve(case, models)), flush=True)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return are_good


def run(policies: Sequence[str], requests: int) -> list[dict[str, Any]]:
    """Serves under each policy where the model is executed; returns the rows of those that did not fail."""
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder), ["llama"])
        command = [str(REAL_PYTHON), "-m", "parity.live", "--serve", models, "--policies", ",".join(policies)]
        command += ["--requests", str(requests)]
        done = subprocess.run(command, cwd=ROOT, env=real_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-30:]), file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"policy"')]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m parity.live", description="Real execution under each policy.")
    parser.add_argument("--requests", type=int, default=999, metavar="N", help=f"a multiple of {TURNS} (default: 999)")
    parser.add_argument("--policies", metavar="P,P", help="beside lru; default: all that need not know the future")
    parser.add_argument("--serve", metavar="MODELS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.requests < TURNS or options.requests % TURNS:
        parser.error(f"--requests is {options.requests}; allowed: a multiple of {TURNS}")
    if options.serve:
        return 0 if serve_all(options.policies.split(","), options.requests, options.serve) else 1
    from parity.drawing import LIVE  # imports numba, beside which the CPU's worker does not start

    policies = LIVE if options.policies is None else tuple(dict.fromkeys(("lru", *options.policies.split(","))))
    rows = run(policies, options.requests)
    found = {row["policy"]: row for row in rows}
    wrong = [f"{policy}: it failed" for policy in policies if policy not in found]
    if "lru" in found:
        wrong += [
            f"{name}: {fault}" for name, row in found.items() for fault in faults(row, options.requests, found["lru"])
        ]
    for row in rows:
        print(json.dumps(row))
    if options.policies is None and not wrong:
        update("live", {"policies": rows})
    print("\n".join(wrong) or "live: every request has ended, every block is free, memory is flat")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
