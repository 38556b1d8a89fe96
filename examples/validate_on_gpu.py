"""The same trace on a real device and in the simulator: differing hits (there must be none), and errors of the times.

    python validate_on_gpu.py run TRACE --model MODEL --out real.jsonl          # where vLLM executes the model
    vllm-sim replay TRACE --model MODEL --out simulated --concurrency 1 ...     # with as many blocks, of the same size
    python validate_on_gpu.py compare real.jsonl simulated/requests.jsonl

`run` needs vLLM 0.32 or newer on a GPU and a model with weights. It sends a request at a time, so that hits do not
depend on time, and forces the recorded tokens (`enable_trace_replay`). Prompts and answers are the token ids that
vllm_sim computes of the trace with the tokenizer in MODEL.

Tried: `compare` by a test. NOT tried: `run`, for want of a GPU.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any


def run(options: argparse.Namespace) -> int:
    """Serves the trace by real execution, and writes a line a request."""
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    from vllm_sim.trace.tokens import load_tokenised

    trace = load_tokenised(options.trace, options.model)
    llm = LLM(
        model=options.model,
        enable_trace_replay=True,
        disable_log_stats=False,
        block_size=options.block_size,
        num_gpu_blocks_override=None if options.capacity_blocks is None else options.capacity_blocks + 1,
        max_model_len=int((trace.prompt_lengths + trace.response_lengths).max()) + 1,
        seed=0,
    )
    with options.out.open("w") as file:
        for row in range(len(trace)):
            answer = trace.response(row).tolist()
            params = SamplingParams(max_tokens=len(answer), ignore_eos=True, trace_decode_token_ids=answer)
            prompt = TokensPrompt(prompt_token_ids=trace.prompt(row).tolist())
            (output,) = llm.generate([prompt], params, use_tqdm=False)
            times = output.metrics
            tokens = len(output.outputs[0].token_ids)
            found: dict[str, Any] = {
                "row": row,
                "prompt_tokens": len(output.prompt_token_ids),
                "output_tokens": tokens,
                "hit_tokens": output.num_cached_tokens,
                "ttft_ms": (times.first_token_ts - times.queued_ts) * 1000,
                "tpot_ms": (times.last_token_ts - times.first_token_ts) * 1000 / (tokens - 1) if tokens > 1 else None,
            }
            file.write(json.dumps(found) + "\n")
    return 0


def read(path: Path) -> dict[int, dict[str, Any]]:
    """Rows by their number."""
    return {row["row"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def times_of(row: dict[str, Any]) -> dict[str, float | None]:
    """TTFT and TPOT of a row of either side."""
    if "ttft_ms" in row:
        return {"ttft": row["ttft_ms"], "tpot": row["tpot_ms"]}
    first, tokens = row["first_token_ms"], row["output_tokens"]
    tpot = (row["end_ms"] - first) / (tokens - 1) if tokens > 1 else None
    return {"ttft": first - row["first_scheduled_ms"], "tpot": tpot}


def seconds_of(rows: dict[int, dict[str, Any]]) -> float:
    """What all requests take, one after the other."""
    spans = ((times_of(row), row["output_tokens"]) for row in rows.values())
    return sum((times["ttft"] or 0.0) + (times["tpot"] or 0.0) * (tokens - 1) for times, tokens in spans) / 1000


def compare(options: argparse.Namespace) -> int:
    """Prints what differs; 1 where hits or lengths do."""
    real, simulated = read(options.real), read(options.simulated)
    if real.keys() != simulated.keys():
        raise SystemExit(f"{options.real} has {len(real)} rows, {options.simulated} {len(simulated)}, or other ones")
    counts = ("prompt_tokens", "output_tokens", "hit_tokens")
    differing = {name: [row for row in real if real[row][name] != simulated[row][name]] for name in counts}
    for name, rows in differing.items():
        shown = ", ".join(f"row {row}: {real[row][name]} and {simulated[row][name]}" for row in rows[:5])
        print(f"{name}: {len(rows)} of {len(real)} rows differ{f' (real and simulated: {shown})' if rows else ''}")
    for name in ("ttft", "tpot"):
        pairs = [(times_of(real[row])[name], times_of(simulated[row])[name]) for row in real]
        ratios = [mine / theirs for theirs, mine in pairs if theirs and mine]
        if ratios:
            errors = [abs(ratio - 1) for ratio in ratios]
            print(
                f"{name}: simulated / real {mean(ratios):.3f} in the mean; relative error {median(errors):.1%} in the "
                f"median, {max(errors):.1%} at most, of {len(ratios)} requests"
            )
    real_s, mine_s = seconds_of(real), seconds_of(simulated)
    if real_s and mine_s:
        tokens = sum(row["output_tokens"] for row in real.values())
        print(
            f"throughput: {tokens / real_s:.2f} tokens/s real, {tokens / mine_s:.2f} simulated, a request at a time: "
            f"simulated / real {real_s / mine_s:.3f}"
        )
    return 1 if any(differing.values()) else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    on_device = commands.add_parser("run", help="serve a trace by real execution")
    on_device.add_argument("trace", type=Path)
    on_device.add_argument("--model", required=True)
    on_device.add_argument("--out", type=Path, required=True)
    on_device.add_argument("--block-size", type=int, default=16)
    on_device.add_argument("--capacity-blocks", type=int)
    on_device.set_defaults(call=run)
    both = commands.add_parser("compare", help="hold the device's rows against the simulator's")
    both.add_argument("real", type=Path)
    both.add_argument("simulated", type=Path)
    both.set_defaults(call=compare)
    options = parser.parse_args()
    return options.call(options)


if __name__ == "__main__":
    sys.exit(main())
