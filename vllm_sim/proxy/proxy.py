"""The exchange with client and upstream, as an ASGI application.

Bytes of requests and responses pass unchanged, except that a recorded request may get `return_token_ids: true` in
front, and that its `accept-encoding` asks for nothing that cannot be read here. The client then sees the token ids that
it did not ask for, in fields of vLLM's own: taking them out would mean to write every event anew, to hold events back
until they are whole, and to be wrong wherever upstream has something that this module does not know.

Nothing of a header is stored or logged, nor is a query; an error is named by its class, as its text may quote a header.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal, NamedTuple

import httpx

from vllm_sim.proxy.recorder import Recorder, Recording
from vllm_sim.proxy.request import (
    RECORDED_PATHS,
    SESSION_HEADER,
    UnreadableRequest,
    may_ask_for_token_ids,
    parse_body,
    read_request,
    with_token_ids,
)

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
AskForTokenIds = Literal["auto", "always", "never"]

# RFC 9110, section 7.6.1, and what belongs to one connection in practice.
_HOP_BY_HOP = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
    *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
}
_PROBE_TIMEOUT_S = 5.0


class Limits(NamedTuple):
    """What a client may take up."""

    body_bytes: int | None = None
    """Longest body of a request; None for any."""
    idle_s: float | None = None
    """Longest time in which nothing comes of a request that is awaited; None for any."""


NO_LIMITS = Limits()


class Proxy:
    """Passes every request on, and records completions and chats."""

    def __init__(
        self,
        upstream: httpx.URL,
        client: httpx.AsyncClient,
        recorder: Recorder,
        ask_for_token_ids: AskForTokenIds,
        limits: Limits = NO_LIMITS,
    ) -> None:
        """Takes an upstream URL without the `/v1` that paths of requests begin with."""
        self._limits = limits
        self._upstream, self._client, self._recorder = upstream, client, recorder
        self._returns_token_ids = {"auto": None, "always": True, "never": False}[ask_for_token_ids]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival_ms = self._recorder.now_ms()
        if not scope["raw_path"].startswith(b"/"):
            target = scope["raw_path"].decode("latin-1")
            await _answer(send, 400, "invalid_request_error", f"the target is {target!r}; allowed: a path")
            return
        try:
            body = await _read_body(receive, self._limits)
        except _RefusedBody as refusal:
            await _answer(send, refusal.status, "invalid_request_error", str(refusal), [(b"connection", b"close")])
            return
        if body is None:
            return
        work = asyncio.create_task(self._exchange(scope, body, arrival_ms, send))
        gone = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            work.cancel()  # without effect when it is done; else it closes the request to upstream
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _exchange(self, scope: Scope, body: bytes, arrival_ms: float, send: Send) -> None:
        headers: Headers = [(name.lower(), value) for name, value in scope["headers"]]
        recording = None
        if scope["method"] == "POST" and scope["raw_path"] in RECORDED_PATHS:
            recording, body, headers = await self._begin_recording(scope["raw_path"], headers, body, arrival_ms)
        whole = False
        try:
            whole = await self._forward(scope, _request_headers(headers, len(body)), body, recording, send)
        finally:
            if recording is not None:
                recording.end(whole=whole)

    async def _begin_recording(
        self, path: bytes, headers: Headers, body: bytes, arrival_ms: float
    ) -> tuple[Recording | None, bytes, Headers]:
        """The recording if there is to be one, and body and headers as they go to upstream."""
        values = parse_body(body)
        try:
            if values is None:
                raise UnreadableRequest("the body is not a JSON object")
            request = read_request(path, _header(headers, SESSION_HEADER), values)
        except UnreadableRequest as error:
            self._recorder.counts.not_recorded += 1
            logger.warning("a request was not recorded: %s", error)
            return None, body, headers
        if may_ask_for_token_ids(request, values) and await self._upstream_returns_token_ids(headers):
            body = with_token_ids(body)
        return Recording(self._recorder, request, arrival_ms), body, _readable_encodings(headers)

    async def _upstream_returns_token_ids(self, headers: Headers) -> bool:
        """Whether upstream is vLLM, by the owner of its models; tried with the client's key until it answers.

        Other servers may refuse a parameter that they do not know.
        """
        if self._returns_token_ids is None:
            key = [(name, value) for name, value in headers if name == b"authorization"]
            try:
                response = await self._client.get(self._url(b"/v1/models"), headers=key, timeout=_PROBE_TIMEOUT_S)
                if response.status_code != 200:
                    return False
                models = response.json()["data"]
                self._returns_token_ids = any(model.get("owned_by") == "vllm" for model in models)
            except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
                return False
        return self._returns_token_ids

    def _url(self, raw_path: bytes) -> httpx.URL:
        return self._upstream.copy_with(raw_path=self._upstream.raw_path.rstrip(b"/") + raw_path)

    async def _forward(
        self, scope: Scope, headers: Headers, body: bytes, recording: Recording | None, send: Send
    ) -> bool:
        """Sends the request on and the response back; returns whether the response came to its end."""
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        # Not the client's build_request, which adds headers and cookies of the client's own.
        url = self._url(scope["raw_path"] + query)
        request = httpx.Request(scope["method"], url, headers=headers, content=body)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            await self._refuse(error, recording, send)
            return False
        try:
            await self._pass_on(response, recording, send)
        except httpx.HTTPError as error:
            # The head is out. Returning before the body's end makes the server cut the connection, as upstream did.
            logger.warning("upstream broke off in mid-response: %s", type(error).__name__)
            return False
        finally:
            await response.aclose()
        if recording is not None:
            recording.end(whole=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True

    async def _pass_on(self, response: httpx.Response, recording: Recording | None, send: Send) -> None:
        head = response.headers
        if recording is not None:
            recording.begin(
                response.status_code,
                head.get("content-type", ""),
                head.get("content-encoding", ""),
                head.get("content-length"),
            )
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": _without_hop_by_hop([(name.lower(), value) for name, value in head.raw]),
            }
        )
        async for chunk in response.aiter_raw():
            if recording is not None:
                recording.feed(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _refuse(self, error: httpx.HTTPError, recording: Recording | None, send: Send) -> None:
        timed_out = isinstance(error, httpx.TimeoutException)
        status = 504 if timed_out else 502
        what = "did not answer in time" if timed_out else "cannot be reached"
        message = f"vllm-sim record: upstream {what} ({type(error).__name__})"
        logger.warning("upstream %s: %s", what, type(error).__name__)
        if recording is not None:
            recording.begin(status)
        await _answer(send, status, "upstream_error", message)


async def _answer(send: Send, status: int, kind: str, message: str, more_headers: Headers | None = None) -> None:
    """An error of the recorder's own, as OpenAI's API writes errors."""
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers + (more_headers or [])})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class _RefusedBody(Exception):
    """A request that is not read to its end."""

    def __init__(self, status: int, reason: str):
        super().__init__(f"vllm-sim record: {reason}")
        self.status = status


async def _read_body(receive: Receive, limits: Limits) -> bytes | None:
    """The body of the request, or None when the client went away before its end.

    Raises:
        _RefusedBody: it is too long, or nothing of it came for too long.
    """
    parts, size = [], 0
    while True:
        try:
            message = await asyncio.wait_for(receive(), limits.idle_s)
        except TimeoutError:
            raise _RefusedBody(408, f"nothing of the body came for {limits.idle_s:g} s (--idle-timeout)") from None
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if limits.body_bytes is not None and size > limits.body_bytes:
            raise _RefusedBody(413, f"the body is longer than {limits.body_bytes} bytes (--max-body)")
        if not message.get("more_body", False):
            return b"".join(parts)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _header(headers: Headers, name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)


def _without_hop_by_hop(headers: Headers) -> Headers:
    named = {name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")}
    return [(name, value) for name, value in headers if name not in _HOP_BY_HOP | named]


def _request_headers(headers: Headers, body_bytes: int) -> Headers:
    has_body = body_bytes or any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
    kept = [h for h in _without_hop_by_hop(headers) if h[0] not in (b"host", b"content-length", b"expect")]
    return kept + ([(b"content-length", str(body_bytes).encode())] if has_body else [])


def _readable_encodings(headers: Headers) -> Headers:
    accepts_gzip = any(name == b"accept-encoding" and b"gzip" in value.lower() for name, value in headers)
    kept = [header for header in headers if header[0] != b"accept-encoding"]
    return [*kept, (b"accept-encoding", b"gzip" if accepts_gzip else b"identity")]
