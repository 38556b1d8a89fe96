"""A server that speaks as much of the Hugging Face hub's HTTP as the download of one file needs."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Has one file, after a redirect to another host name, as the hub has its large files."""

    daemon_threads = True

    def __init__(self, path: str, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.path, self.data = path, data
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.size = len(data)
        self.cut_at: int | None = None
        """The next answer ends here, with a broken connection, or with none if `stalls`."""
        self.stalls = threading.Event()
        self.may_end = threading.Event()
        self.ranges: list[str | None] = []
        """Of every request for the data."""


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._redirect()

    def do_GET(self) -> None:
        if self.path != "/data":
            self._redirect()
            return
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.server.data) - begin))
        if wanted:
            end = len(self.server.data) - 1
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(self.server.data)}")
        self.end_headers()
        cut_at, self.server.cut_at = self.server.cut_at, None
        self.wfile.write(self.server.data[begin:cut_at])
        if cut_at is not None:
            if self.server.stalls.is_set():
                self.server.may_end.wait(60)
            self.close_connection = True

    def _redirect(self) -> None:
        branch = {f"{self.server.path.format(revision=r)}" for r in ("main", COMMIT)}
        self.send_response(302 if self.path in branch else 404)
        self.send_header("Content-Length", "0")
        if self.path in branch:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Size", str(self.server.size))
            self.send_header("X-Linked-ETag", f'"{self.server.sha256}"')
            self.send_header("Location", f"http://localhost:{self.server.server_port}/data")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serving(path: str, data: bytes) -> Iterator[Hub]:
    """Serves a file at a path with `{revision}` in it."""
    hub = Hub(path, data)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    yield hub
    hub.may_end.set()
    hub.shutdown()
    thread.join()
    hub.server_close()
