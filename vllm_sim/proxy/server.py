"""`vllm-sim record`: listening, and stopping with a count."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import signal
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx

from vllm_sim.proxy.proxy import NO_LIMITS, AskForTokenIds, Limits, Proxy
from vllm_sim.proxy.recorder import Recorder

logger = logging.getLogger(__name__)

_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_FOREVER_S = 10**9
_GRACE_S = 5
"""How long running responses may go on after the signal to stop."""


def record(
    upstream: str,
    out: Path,
    host: str,
    port: int,
    *,
    ask_for_token_ids: AskForTokenIds = "auto",
    connect_timeout_s: float | None = 10.0,
    read_timeout_s: float | None = 600.0,
    limits: Limits = NO_LIMITS,
) -> None:
    """Records until SIGINT or SIGTERM.

    Args:
        upstream: URL of the server, with or without `/v1`.
        out: The trace; appended to if it is there.
        host: Name or address to listen on, all of its addresses.
        port: 0 for any that is free.
        ask_for_token_ids: Whether requests get `return_token_ids`: auto asks where upstream is vLLM.
        connect_timeout_s: For a connection to upstream; None for no limit.
        read_timeout_s: Between two pieces of a response, and before the first; None for no limit.
        limits: What a client may take up.

    Raises:
        ValueError: the URL is none, or the file is no recording.
        OSError: the file cannot be written, or the port is taken.
    """
    import uvicorn

    url = parse_upstream(upstream)
    logging.basicConfig(level=logging.WARNING, format="vllm-sim record: %(levelname)s: %(message)s")
    with contextlib.ExitStack() as stack:
        sockets = listen(host, port)
        for one in sockets:
            stack.callback(one.close)
        recorder = Recorder(out)
        stack.callback(recorder.close)
        shown_host = f"[{host}]" if ":" in host else host
        address = f"http://{shown_host}:{sockets[0].getsockname()[1]}"
        if not all(ipaddress.ip_address(one.getsockname()[0].partition("%")[0]).is_loopback for one in sockets):
            logger.warning("whoever reaches %s can use %s, and is recorded; allowed alone: --host localhost", host, url)
        print(f"vllm-sim record: {address}/v1 -> {url}, into {out}", flush=True)
        try:
            asyncio.run(
                _serve(
                    uvicorn,
                    sockets,
                    url,
                    recorder,
                    ask_for_token_ids,
                    httpx.Timeout(read_timeout_s, connect=connect_timeout_s, pool=None),
                    limits,
                )
            )
        finally:
            print(f"vllm-sim record: {recorder.counts}; in {out}", flush=True)


def parse_upstream(text: str) -> httpx.URL:
    """The URL of a server, without the `/v1` at its end.

    Raises:
        ValueError: it is no URL of a server. It is not quoted where it might hold a key.
    """
    allowed = "allowed: http(s)://HOST[:PORT][/PATH]"
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"--upstream is no URL ({error}); {allowed}") from None
    if url.userinfo or url.query or url.fragment:
        raise ValueError(f"--upstream has a user, a query or a fragment in it; {allowed}")
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"--upstream is {text}; {allowed}")
    return url.copy_with(path=url.path.rstrip("/").removesuffix("/v1") or "/")


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of a host, all at the same port.

    Raises:
        OSError: the host is not known or not this machine's, or the port is taken.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                one = socket.create_server((str(address[0]), port), family=family, backlog=2048)
            except OSError as error:
                if error.errno in _NO_SUCH_ADDRESS:
                    continue  # many machines name an IPv6 address for localhost and have none
                raise
            sockets.append(one)
            port = one.getsockname()[1]
        if not sockets:
            raise OSError("not an address of this machine")
    except OSError as error:
        for one in sockets:
            one.close()
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    return sockets


def _impatient_protocol(idle_s: float | None) -> Any:
    """uvicorn's protocol, which closes a connection that brings no head of a request; uvicorn waits for ever."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Impatient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if idle_s is not None:
                self.loop.call_later(idle_s, self._close_without_request)

        def _close_without_request(self) -> None:
            if self.cycle is None:
                self.transport.close()

    return Impatient


async def _serve(
    uvicorn: ModuleType,
    sockets: list[socket.socket],
    upstream: httpx.URL,
    recorder: Recorder,
    ask_for_token_ids: AskForTokenIds,
    timeout: httpx.Timeout,
    limits: Limits,
) -> None:
    pool = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(timeout=timeout, limits=pool, follow_redirects=False) as client:
        config = uvicorn.Config(
            Proxy(upstream, client, recorder, ask_for_token_ids, limits),
            http=_impatient_protocol(limits.idle_s),
            timeout_keep_alive=_FOREVER_S if limits.idle_s is None else limits.idle_s,
            lifespan="off",
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
        # uvicorn raises the signals that stopped it once more when it is done; these handlers take them, so that the
        # count is still printed and the command ends well.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)
        await uvicorn.Server(config).serve(sockets=sockets)
