"""A headless Chromium, spoken to through its DevTools protocol: a page is loaded, clicked and read."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PROGRAM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class Page:
    """An open page."""

    def __init__(self, socket: ClientConnection):
        self.socket, self.number = socket, 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv(timeout=30))
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def choose(self, control: str, value: str) -> None:
        """Chooses an option of a select as a user does."""
        self.run(
            f"(s => {{ s.value = {json.dumps(value)}; s.dispatchEvent(new Event('change')) }})"
            f"(document.getElementById({json.dumps(control)}))"
        )
        assert self.run(f"document.getElementById({json.dumps(control)}).value") == value

    def until(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + 30
        while not self.run(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.05)

    def hover(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


@contextmanager
def open_page(file: Path, profile: Path) -> Iterator[Page]:
    assert PROGRAM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=1000,950"]
    line = [PROGRAM, *options, f"--user-data-dir={profile}", file.as_uri()]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_address(profile, file), max_size=None) as socket:
            page = Page(socket)
            deadline = time.monotonic() + 30
            # A page that has not begun to load is complete too: the empty one.
            while page.run("document.readyState + location.href") != f"complete{file.as_uri()}":
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield page
    finally:
        process.terminate()
        process.wait(timeout=20)


def _address(profile: Path, file: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            port = int((profile / "DevToolsActivePort").read_text().split()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                pages = [page for page in json.load(answer) if page["url"] == file.as_uri()]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        except (OSError, IndexError, ValueError):
            pass
        time.sleep(0.1)
    raise AssertionError("Chromium did not open the page in 60 s")
