"""A policy that writes down what it is given of each request."""

import json
import os
from pathlib import Path

from vllm_sim.eviction.policy import Policy, RequestFacts


class Listener(Policy):
    """LRU; a line for each request goes into the file that LISTENER names."""

    def serves(self, facts: RequestFacts) -> None:
        with Path(os.environ["LISTENER"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts._asdict()) + "\n")
