"""What study two runs, read from one TOML file, and what its rows mean.

Files under results/, JSON lines, in the plan's order:

    mixed.jsonl         experiments of the fast backend on the mixes `report_*`
    mixed_matrix.jsonl  who evicts whom (engine), and who costs whom (fast)
    mixed_engine.jsonl  experiment `engine`: times in virtual time, roofline model of an H100
    mixed_hash.jsonl    experiment `hash_trace`: traces of hash ids given by path; only written with --hash-trace

Every row has what ran, as in summary.jsonl (trace, trace_sha256, backend, policy, policy_params, capacity_blocks,
capacity_tokens, block_size, raw_blocks, seed), and

    key, code           of its cell: the plan's point over this trace, and a digest of the code that made the row
    experiment, mix     mix: even, agents, chat, scan, shift, or `all` (sums over the mixes)
    workload            the workload that runs alone; null: the whole mix
    capacity            as the TOML file says it: "2%" ... "100%" of the working set at this block size, "largest" (blocks
                        of the largest request), "unlimited"; of the mix unless said otherwise
    data                source "built", the mix's config_sha256, and of ShareGPT source, sha256, whole
    quick               true: a quick run, no result

`NAME_95` beside a number is its 95 % interval, by resampling sessions (of few-shot: batches). Rates are token hit rates
unless named. Gains compare the same requests in two runs, each draw taking the same sessions from both.

    mix        All policies. The fields of summary.jsonl without by_turn and by_session; token_hit_rate_95;
               by_workload and by_tenant: {name: rates, token_hit_rate_95, gain_over_lru, gain_over_lru_95};
               gain_over_lru, gain_over_lru_95. Also `lru` at "unlimited".
    alone      The same for one workload of the mix alone, at the mix's capacity in blocks: what is lost in the mix.
    loss       A row a mix, block size and capacity (policy `opt`): unlimited_hit_rate, opt_hit_rate, lru_hit_rate,
               hybrid_hit_rate; lost_to_capacity (unlimited - opt), lost_to_policy (opt - lru), kept_by_hybrid
               (hybrid - lru), each with _95; by_workload: {name: the same}.
    gap        A row a policy, block size and mix, and one for mix `all`, over the capacities from 5 to 50 %:
               gain_tokens and gap_tokens (sums of hit tokens over LRU, and of the optimum over LRU), gap_closed
               (their ratio) and gap_closed_95; capacities (list). capacity, capacity_blocks are null.
    isolation  tenants: "none" (no salt), "tenant" (a salt for each tenant of the mix), "2" ... "16" (sessions dealt to
               so many tenants), "session" (a salt for each); salts: number of different ones; the fields of `mix`
               without the gains, and cost (rate without salt - this rate), cost_95.
    guarantee  hybrid against LRU: workload null or alone with capacities of its own working set; tags: "with",
               "without" (no workload, no turn), "shuffled"; block sizes 16 to 512; token_hit_rate, lru_hit_rate,
               gain_over_lru, gain_over_lru_95; hits_sha256 (of the hit tokens of all requests: equal means equal).
    ablation   variant: "default", or parameter and value ("slack=0"), group: "part" (a part is off), "half", "double";
               token_hit_rate, gain_over_lru, gain_over_default, gain_over_default_95.
    cold_start A row a policy: first_hit_rate (first tenth of the requests), rest_hit_rate, both with _95, and with
               gain_over_lru in each: first_gain_over_lru, rest_gain_over_lru (_95).
    windows    kind: "shift" (mix shift: the workloads change in the middle), "scan" (mix scan), "burst" (mix even, all
               one-off calls of the second half come at once in the middle); 20 windows of equally many requests:
               hit_rates (list), gains_over_lru (list; hit tokens over those of LRU / prompt tokens), burst_window;
               token_hit_rate, gain_over_lru.
    bytes      policy hybrid: token_hit_rate; lru_blocks (LRU's least capacity with at least this rate, by its curve),
               lru_bytes, capacity_bytes, saved_bytes (lru - hybrid), saved_share (of lru_bytes); bytes of the model's
               cache at 16 bits. saved_bytes below 0: LRU needs less.

mixed_matrix.jsonl: by ("workload", "tenant"), owner, evictor; backend `engine`: experiment `matrix`, evicted blocks of
the owner that the evictor's allocations took (`blocks`; also by "session", see replay/evictions.py); backend `fast`:
experiment `lost`, prompt tokens that the owner's requests missed since they had been evicted, by the request that
evicted the first of them (`lost_tokens`; evictor "" where none is known).

mixed_engine.jsonl: `point` (name in the TOML file), the engine's fields of summary.jsonl, token_hit_rate_95,
ttft_ms_*, tpot_ms_*, e2e_ms_* (p50, p90, p99) and output_tokens_per_s with _95; by_workload: {name: rates,
token_hit_rate_95, ttft_ms_p50, ttft_ms_p90, ttft_ms_p99, e2e_ms_p50, e2e_ms_p90, e2e_ms_p99, each with _95};
worst_workload (the one whose ttft_ms_p90 is highest relative to LRU's at this point; null for lru),
worst_ttft_ratio.

mixed_hash.jsonl: raw blocks, all policies; part: "whole", "first" (half of the time: tuned on), "second" (reported);
the fields of summary.jsonl without by_*, gain_over_lru, and both with _95 (requests resampled where there are no
sessions).
"""
