"""All metrics are read by Prometheus' own parser, and a request is counted."""

import sys

import httpx
from prometheus_client.parser import text_string_to_metric_families

url, name = sys.argv[1:]


def value(wanted: str) -> float:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == wanted)


before = value("vllm:request_success_total"), value("vllm:generation_tokens_total")
answer = httpx.post(f"{url}/v1/completions", json={"model": name, "prompt": "hehe"}).json()
assert value("vllm:request_success_total") == before[0] + 1
assert value("vllm:generation_tokens_total") == before[1] + answer["usage"]["completion_tokens"]
