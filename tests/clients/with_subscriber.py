"""KV events as a router reads them: blocks that are stored for a prompt, and no more of them for the same prompt."""

import json
import sys
import time
import urllib.request

import msgspec
import zmq

url, name, endpoint = sys.argv[1:]


def complete(prompt: list[int]) -> None:
    body = json.dumps({"model": name, "prompt": prompt, "max_tokens": 1}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"content-type": "application/json"})
    urllib.request.urlopen(request).read()


subscriber = zmq.Context().socket(zmq.SUB)
subscriber.connect(endpoint)
subscriber.setsockopt(zmq.SUBSCRIBE, b"kv")
time.sleep(1)  # until the publisher knows of it


def stored() -> list[list[int]]:
    """Token ids of the blocks that were stored since the last call."""
    found = []
    while subscriber.poll(1500):
        _, _, payload = subscriber.recv_multipart()
        events = msgspec.msgpack.decode(payload)[1]
        found += [event["token_ids"] for event in events if event["type"] == "BlockStored"]
    return found


prompt = [128000, *range(500, 539)]  # 40 tokens, blocks of 8
complete(prompt)
first = stored()
assert [token for tokens in first for token in tokens] == prompt, first
complete(prompt)
again = stored()
assert sum(map(len, again)) <= 8, again  # the last block alone is computed again
complete([128000, 7, *prompt[2:]])
assert sum(map(len, stored())) == len(prompt)
