"""An environment of its own for each client, made on first use and kept: no client decides what vLLM runs with."""

import fcntl
import subprocess
import sys
from pathlib import Path

from tests.serving import ROOT

FOLDER = ROOT / ".venv-clients"
PINS = {
    "openai": ("openai==3.54.0",),
    "litellm": ("litellm==1.110.2",),
    "langchain": ("langchain-openai==1.7.4",),
    "guidellm": ("guidellm==0.8.1", "torch==2.13.0"),  # any newer torch may be a CUDA build of several GB
    "aiperf": ("aiperf==0.13.0",),
    "prometheus": ("prometheus_client==0.26.0", "httpx==0.28.1"),
    "router": ("vllm-router==0.1.17",),
    "subscriber": ("pyzmq==27.3.0", "msgspec==0.22.0"),
}


def python_of(client: str) -> Path:
    """The interpreter of a client's environment."""
    folder, pins = FOLDER / client, "\n".join(PINS[client])
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{client}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = folder / ".complete"
        if not complete.is_file() or complete.read_text() != pins:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *PINS[client]], check=True)
            complete.write_text(pins)
    return folder / "bin" / "python"
