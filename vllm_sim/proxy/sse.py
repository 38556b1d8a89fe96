"""Server-sent events out of a stream of bytes that may be cut anywhere.

The rules are those of the HTML standard, section 9.2.6: lines end in LF, CR or CRLF, the data lines of an event are
joined with a line feed, comments and other fields are passed over. One thing is laxer: an event that the end of the
stream cuts off after its data is still given by close(), for servers that leave out the last blank line.

Why not httpx-sse (0.4.3 was read): it reads the response itself, as text, while the proxy forwards the bytes as they
came, perhaps packed, and looks at them afterwards; its decoder of lines takes text and is private; and it drops an
event that the end of the stream cuts off.
"""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventReader:
    """Collects bytes and gives the data of each event. Bytes are decoded line by line, so a character is never cut."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._after_cr = False
        self._first_line = True

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that end in this chunk."""
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):  # the second half of a CRLF
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        events = []
        for piece in chunk.splitlines(keepends=True):
            self._line.append(piece.rstrip(b"\r\n"))
            if piece.endswith((b"\r", b"\n")) and (event := self._end_line()) is not None:
                events.append(event)
        return events

    def close(self) -> list[str]:
        """The data of an event that the end of the stream cut off, if there is one."""
        event = self._end_line() if self._line else None
        return [text for text in (event, self._end_event()) if text is not None]

    def _end_line(self) -> str | None:
        line = b"".join(self._line)
        self._line.clear()
        if self._first_line:
            line = line.removeprefix(_BYTE_ORDER_MARK)
            self._first_line = False
        if not line:
            return self._end_event()
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        return None

    def _end_event(self) -> str | None:
        if not self._data:
            return None
        event = b"\n".join(self._data).decode("utf-8", "replace")
        self._data.clear()
        return event
