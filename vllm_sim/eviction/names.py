"""Names of eviction policies, and where each is; nothing is imported here."""

POLICIES = {
    "lru": "vllm_sim.eviction.policies.lru:Lru",
    "fifo": "vllm_sim.eviction.policies.fifo:Fifo",
    "random": "vllm_sim.eviction.policies.random:Random",
    "lfu": "vllm_sim.eviction.policies.lfu:Lfu",
    "slru": "vllm_sim.eviction.policies.slru:Slru",
    "arc": "vllm_sim.eviction.policies.arc:Arc",
    "s3fifo": "vllm_sim.eviction.policies.s3fifo:S3Fifo",
    "workload_aware": "vllm_sim.eviction.policies.workload_aware:WorkloadAware",
    "hybrid": "vllm_sim.eviction.policies.hybrid:Hybrid",
    "belady": "vllm_sim.eviction.policies.belady:Belady",
}
"""The path `module:Class` of the policies that the studies compare."""
LITERATURE = {
    "sieve": "vllm_sim.eviction.policies.sieve:Sieve",
    "2q": "vllm_sim.eviction.policies.two_q:TwoQ",
    "gdsf": "vllm_sim.eviction.policies.gdsf:Gdsf",
    "lecar": "vllm_sim.eviction.policies.lecar:LeCaR",
    "lhd": "vllm_sim.eviction.policies.lhd:Lhd",
    "tlru": "vllm_sim.eviction.policies.tlru:TailLru",
    "rlt": "vllm_sim.eviction.policies.rlt:RandomLeaf",
    "ttl": "vllm_sim.eviction.policies.ttl:TimeToLive",
    "priority": "vllm_sim.eviction.policies.priority:Priority",
    "lpc": "vllm_sim.eviction.policies.lpc:LearnedPrefix",
    "intellikv": "vllm_sim.eviction.policies.intellikv:IntelliKV",
}
"""The same of more policies from papers and pull requests."""
OFFLINE = "belady"
"""The policy that needs the future, so a recorded trace."""
ALIASES = {"opt": "belady", "wa": "workload_aware"}
"""Other names of policies, read everywhere and never written."""


def full_name(policy: str) -> str:
    """The name of a policy by which rows name it."""
    return ALIASES.get(policy, policy)
