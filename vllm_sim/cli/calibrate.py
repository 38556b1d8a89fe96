"""`vllm-sim calibrate`."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "calibrate",
        help="fit the latency model `table` to the step times of a real vLLM",
        description="Reads what `vllm serve ... --enable-logging-iteration-details --no-async-scheduling` logged; on a "
        "CPU with --distributed-executor-backend mp too. Or the NAME.json of `vllm bench serve --save-result "
        "--save-detailed`, which shows steps as a client sees them. Or the metrics of a server that is under load, "
        "which show steps on average.",
        epilog="example: vllm-sim calibrate server.log --out l4.json; "
        "vllm-sim replay trace.jsonl --out run --latency-model table --latency-file l4.json",
    )
    parser.add_argument(
        "log",
        metavar="LOG",
        help="the log (other lines in it do not matter), NAME.json of a benchmark, or http://HOST:PORT/metrics",
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long metrics are read, once a second (default: 60)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="table as JSON")
    parser.set_defaults(run=run_calibrate)


def run_calibrate(options: argparse.Namespace) -> None:
    from vllm_sim.replay.calibrate import calibrate, calibrate_by_metrics
    from vllm_sim.terminal import progress_bar

    if options.log.startswith(("http://", "https://")):
        if not 0 < options.seconds <= 86_400:
            raise ValueError(f"--seconds is {options.seconds:g}; allowed: above 0, up to 86400")
        with progress_bar("reading metrics") as on_reading:
            table = calibrate_by_metrics(options.log, options.out, options.seconds, on_reading=on_reading)
    else:
        table = calibrate(Path(options.log), options.out)
    held_out = table["held_out"]
    print(
        f"{options.out}: {table['base_ms']:.4g} ms + {table['prefill_request_ms']:.4g} ms a prefilling request "
        f"+ {table['prefill_token_ms']:.4g} ms a prefill token + {table['decode_request_ms']:.4g} ms a decoding request"
    )
    print(
        f"{table['steps']} steps; on {held_out['steps']} left out of the fit: relative error "
        f"{held_out['relative_error_p50']:.1%} in the median, {held_out['relative_error_p90']:.1%} at 90 %; "
        f"predicted / measured time {held_out['predicted_over_measured']:.3f}"
    )
