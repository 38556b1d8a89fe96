"""Numbers of study one's engine rows: the backends that agree, and times."""

from typing import Any

from milestone2_code.study.plan import WORKLOADS
from report.numbers.rows import Rows
from report.numbers.texts import number, percent, rate, share_name, timed
from vllm_sim.replay.rows import Row

Numbers = dict[str, Any]
SMALL = 0.1
"""The capacity, as a share of the working set, at which backends are compared."""
CLOSE = 0.01
"""A difference of hit rates that the text calls small."""


def chat_engine_numbers(rows: Rows, engine: Rows) -> Numbers:
    """The three backends at the small capacity, and the engine's times."""
    agree = []
    for name in WORKLOADS:
        for row in rows.pick("agree", workload=name):
            agree.append([name, row["backend"], row["hit_tokens"]])
        for row in engine.rows:
            if row["workload"] == name and row["capacity_share"] == SMALL and row["arrival"] == "closed, concurrency 1":
                agree.append([name, row["backend"], row["hit_tokens"]])
    table = []
    for row in engine.rows:
        sent = f"{row['sessions_per_s']:g} sessions/s" if row["arrival"].startswith("open") else row["arrival"]
        table.append(
            [
                f"{row['workload']}-turn",
                share_name(row["capacity_share"]),
                sent.replace("closed, concurrency", "closed,"),
                rate(row["token_hit_rate"]),
                timed(row, "ttft_ms_p50"),
                timed(row, "ttft_ms_p99"),
                timed(row, "output_tokens_per_s", 0),
                number(row["preemptions"]),
            ]
        )
    return {
        "agree": all(len({count for name, _, count in agree if name == workload}) == 1 for workload in WORKLOADS),
        "agree_table": [[f"{name}-turn", f"`{backend}`", number(count)] for name, backend, count in agree],
        "table": table,
        "closed": _closed(engine),
        "overlap": _overlap(rows, engine),
        "device": engine.rows[0]["device"].upper(),
        "model": engine.rows[0]["latency_model"],
    }


def _closed(engine: Rows) -> Numbers:
    """What room for all blocks is worth to a busy engine: multi-turn, the closed loop with most requests in flight."""
    found = [row for row in engine.pick("engine", workload="multi") if row["arrival"].startswith("closed")]
    small, large = (max((r for r in found if r["capacity_share"] == share), key=in_flight) for share in (SMALL, None))
    return {
        "flight": number(in_flight(small)),
        "small_ms": number(small["ttft_ms_p99"], 1),
        "unlimited_ms": number(large["ttft_ms_p99"], 1),
        "better": large["ttft_ms_p99"] < small["ttft_ms_p99"]
        and large["output_tokens_per_s"] > small["output_tokens_per_s"],
        "faster": percent(large["output_tokens_per_s"] / small["output_tokens_per_s"] - 1, 0),
    }


def in_flight(row: Row) -> int:
    """Requests at a time in a closed loop."""
    return int(row["arrival"].rpartition(" ")[2])


def _overlap(rows: Rows, engine: Rows) -> Numbers | None:
    """Multi-turn at the small capacity with arrivals: the engine, and the sequential cache with the same arrivals."""
    for row in engine.rows:
        if row["workload"] == "multi" and row["capacity_share"] == SMALL and row["arrival"].startswith("open"):
            pattern = {name: row[name] for name in ("sessions_per_s", "think_s")}
            fast = rows.one("capacity", workload="multi", capacity_share=SMALL, **pattern)
            return {
                "engine": percent(row["token_hit_rate"]),
                "fast": percent(fast["token_hit_rate"]),
                "close": abs(row["token_hit_rate"] - fast["token_hit_rate"]) < CLOSE,
            }
    return None
