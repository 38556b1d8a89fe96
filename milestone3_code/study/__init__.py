"""Study two: eviction policies under mixed workloads."""
