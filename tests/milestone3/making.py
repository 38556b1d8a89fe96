"""A small study: one mix of chats, few-shot batches and one-off calls made here, and a plan of a few points."""

import random
from pathlib import Path

from milestone3_code.study.build import build_mixes
from milestone3_code.study.study import Study
from vllm_sim.trace.files import write_records
from vllm_sim.trace.record import Record

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "exported_models" / "Llama-3.2-1B-Instruct")

MIX = """
seed = 1
[sources.chat]
kind = "trace"
path = "chats.jsonl"
workload = "chat"
tenant = "web"
end_s = 300
arrivals = { kind = "poisson", sessions_per_s = 0.5 }
think_ms = { kind = "fixed", value = 20000 }

[sources.fewshot]
kind = "fewshot"
sessions = 20
tenant = "batch"
sets = 3
examples = 6
questions = { kind = "fixed", value = 4 }
end_s = 300
arrivals = { kind = "poisson", sessions_per_s = 0.1 }

[sources.oneoff]
kind = "oneoff"
sessions = 60
tenant = "api"
end_s = 300
prompt_words = { kind = "uniform", low = 20, high = 60 }
arrivals = { kind = "poisson", requests_per_s = 0.3 }
"""

PLAN = """
mixes = ["tiny"]
seeds = 2

[quick]
mixes = ["tiny"]
seeds = 2
loads = [1.0]
block_sizes = [16]
capacities = ["10%", "30%"]
policies = ["lru", "hybrid", "belady"]

[tune]
mixes = ["tiny"]
block_sizes = [16]
capacities = ["10%"]
hash_blocks = ["20"]
worst = -1.0

[tune.values]
{constant} = [{value}]

[hybrid]
constants = ["{constant}"]

[hybrid.without]
one = {{ {constant} = {value} }}

[engine]
seeds = 1
device = "laptop"
loads = [1.0, 2.0]
seconds = 120
warmup_s = 40
capacities = ["20%"]
policies = ["lru", "hybrid", "belady"]

[[grid]]
experiment = "mix"
capacities = ["10%", "30%"]
policies = ["lru", "arc", "hybrid", "belady"]

[[grid]]
experiment = "mix"
capacities = ["unlimited"]
policies = ["lru"]

[[grid]]
experiment = "alone"
capacities = ["10%"]
policies = ["lru", "hybrid"]

[[grid]]
experiment = "loss"
capacities = ["10%", "30%"]
policies = ["belady"]

[[grid]]
experiment = "seeds"
capacities = ["5%", "10%", "20%", "30%", "50%"]
summed = ["5%", "10%", "20%", "50%"]
policies = ["lru", "arc", "hybrid", "belady"]

[[grid]]
experiment = "lost"
capacities = ["10%"]
policies = ["lru", "hybrid", "belady"]

[[grid]]
experiment = "isolation"
capacities = ["10%", "unlimited"]
policies = ["lru"]
details = ["none", "tenant", "2", "session"]

[[grid]]
experiment = "guarantee"
block_sizes = [16, 64]
capacities = ["largest", "10%", "100%"]
policies = ["hybrid"]
details = ["with", "without", "shuffled"]

[[grid]]
experiment = "ablation"
capacities = ["10%"]
policies = ["hybrid"]

[[grid]]
experiment = "cold_start"
capacities = ["10%"]
policies = ["lru", "hybrid"]

[[grid]]
experiment = "windows"
capacities = ["10%"]
policies = ["lru", "hybrid"]
details = ["burst"]

[[grid]]
experiment = "bytes"
capacities = ["10%"]
policies = ["hybrid"]

[[grid]]
experiment = "random"
mixes = ["all"]
capacities = ["10%", "50%"]
policies = ["hybrid"]
traffics = 2

[[grid]]
experiment = "hash_trace"
capacities = ["20", "60"]
policies = ["lru", "hybrid", "belady"]
details = ["whole", "first", "second"]
"""
CONSTANT, VALUE = "ghosts", 2.0


def make_study(folder: Path) -> tuple[Path, Study]:
    """Writes the plan, the configuration and the trace of the mix, and a hash-id trace; returns plan and study."""
    configs, data = folder / "mixes", folder / "data"
    configs.mkdir()
    write_records(configs / "chats.jsonl", _chats())
    for name in ("report_tiny", "tune_tiny"):
        (configs / f"{name}.toml").write_text(MIX)
        build_mixes([configs / f"{name}.toml"], data, False, str, 2)
    write_records(folder / "hashes.jsonl", _hashes())
    plan = folder / "study.toml"
    plan.write_text(PLAN.format(constant=CONSTANT, value=VALUE))
    study = Study(configs=configs, data=data, model=MODEL, results=folder / "results", mixes=("tiny",))
    return plan, study


def _chats() -> list[Record]:
    draw = random.Random(3)
    records = []
    for chat in range(40):
        messages: list[dict] = []
        for turn in range(chat % 5 + 1):
            text = " ".join(draw.choice(["one", "two", "red", "green", "up", "down"]) for _ in range(40))
            messages.append({"role": "user", "content": f"{chat} {text}"})
            records.append(Record(messages=[*messages], response=f"{text} {turn}", session_id=f"c{chat}", turn=turn))
            messages.append({"role": "assistant", "content": f"{text} {turn}"})
    return records


def _hashes() -> list[Record]:
    """Sessions that grow by a block a request, 8 at a time."""
    records = []
    for number in range(240):
        session, turn = number % 8 + 8 * (number // 80), number % 80 // 8
        ids = [0, *(1000 * (session + 1) + block for block in range(turn + 2))]
        size = 512 * len(ids)
        values = {"hash_ids": ids, "input_length": size, "hash_block_size": 512, "output_length": 5}
        records.append(Record(timestamp=1000.0 * number, **values))
    return records
