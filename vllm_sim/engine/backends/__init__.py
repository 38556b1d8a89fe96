"""What drives vLLM in a replay, from outside of it: the backends `engine` and `blockpool`. Servers load none of it.

driver      EngineCore step by step, in virtual time
offline     an engine without a tokenizer, a model or workers
ledger      which requests hit, missed and evicted which blocks
block_log   what happens to blocks, as the ledger notes it; ledger_kernel and lifetimes read it
lifetimes   how long blocks live
blockpool   KVCacheManager, one request after the other
"""
