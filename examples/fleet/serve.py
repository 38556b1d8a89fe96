"""N real servers over a trace on this machine, with KV events, and vllm-router before them.

    pip install vllm-router==0.1.17
    python examples/fleet/serve.py trace.jsonl --servers 2 --policy kv_aware

Each server is vLLM's own API server under the simulator, on a port of its own; its KV events are published on another
and can be asked for again on a third. When all answer, the router listens on --port. Ctrl-C ends all of them.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

NAME = "meta-llama/Llama-3.2-1B-Instruct"
POLICIES = ("kv_aware", "cache_aware", "consistent_hash", "round_robin")
START_SECONDS = 300


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("localhost", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def server(options: argparse.Namespace, port: int, events: int, again: int) -> list[str]:
    """The command of a server."""
    # An endpoint with * is bound; without it vLLM connects, and whoever subscribes would have to bind.
    published = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{events}",
        "replay_endpoint": f"tcp://*:{again}",
    }
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "localhost", "--port", str(port)),
        *("--model", options.model, "--tokenizer", options.model, "--served-model-name", NAME, "--device", "cpu"),
        *("--block-size", str(options.block_size), "--kv-events-config", json.dumps(published), *options.more),
    ]


def router(options: argparse.Namespace, ports: list[int], events: list[int], again: list[int]) -> list[str]:
    """The command of the router."""
    urls = [f"http://localhost:{port}" for port in ports]
    words = ["vllm-router", "--host", "localhost", "--port", str(options.port), "--policy", options.policy]
    words += ["--prometheus-port", str(free_ports(1)[0]), "--worker-urls", *urls]
    if options.policy == "kv_aware":
        words += ["--kv-event-block-size", str(options.block_size), "--kv-event-model", NAME]
        for url, event, replay in zip(urls, events, again, strict=True):
            words += ["--kv-event-source", f"{url}=tcp://localhost:{event}"]
            words += ["--kv-event-replay-source", f"{url}=tcp://localhost:{replay}"]
    return words


def wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until a server answers."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the server on port {port} has ended with {process.returncode}")
        try:
            urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit(f"the server on port {port} does not answer after {START_SECONDS} s")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="what follows -- goes to the servers: serve.py trace.jsonl -- --max-model-len 4096",
    )
    parser.add_argument("trace", type=Path)
    parser.add_argument("--servers", type=int, default=2, metavar="N")
    parser.add_argument("--policy", choices=POLICIES, default="cache_aware", help="of vllm-router")
    parser.add_argument("--port", type=int, default=8000, help="of the router")
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--model", default="exported_models/Llama-3.2-1B-Instruct")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end], argparse.Namespace(more=words[end + 1 :]))
    if options.servers < 1:
        parser.error(f"--servers is {options.servers}; allowed: 1 or more")
    if shutil.which("vllm-router") is None:
        parser.error("vllm-router is not installed; allowed: pip install vllm-router==0.1.17")
    ports = free_ports(3 * options.servers)
    http, events, again = ports[::3], ports[1::3], ports[2::3]
    environment = os.environ | {"VLLM_SIM_TRACE_PATH": str(options.trace)}
    running = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for own in zip(http, events, again, strict=True):
            running.append(subprocess.Popen(server(options, *own), env=environment))
        for port, process in zip(http, running, strict=True):
            wait(port, process)
        running.append(subprocess.Popen(router(options, http, events, again)))
        wait(options.port, running[-1])
        print(
            f"{options.servers} servers on ports {http}, {options.policy} on http://localhost:{options.port}",
            flush=True,
        )
        return running[-1].wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
