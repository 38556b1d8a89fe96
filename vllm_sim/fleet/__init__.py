"""Several replicas of a cache, and the routers before them."""
