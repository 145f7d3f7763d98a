"""HTTP/2 by hand, for clients that a real one would never be."""

from __future__ import annotations

import asyncio
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, WINDOW_UPDATE = 0, 1, 3, 4, 8
END_STREAM, END_HEADERS = 1, 4
WINDOW = 2**31 - 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """Return a header as HPACK writes it without any table."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def hello(*, greedy: bool = False) -> bytes:
    """Begin a connection; a greedy one has all the room for answers that there can be."""
    if not greedy:
        return PREFACE + frame(SETTINGS, 0, 0)
    window = struct.pack(">HI", 4, WINDOW)
    more = struct.pack(">I", WINDOW - 65_535)
    return PREFACE + frame(SETTINGS, 0, 0, window) + frame(WINDOW_UPDATE, 0, 0, more)


def request(method: str, stream: int = 1) -> bytes:
    """Begin a call."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",  # codespell:ignore te
    }
    block = b"".join(literal(name, value) for name, value in headers.items())
    return frame(HEADERS, END_HEADERS, stream, block)


def message(body: bytes, stream: int = 1) -> bytes:
    """Send one message of a call, and no more."""
    return frame(DATA, END_STREAM, stream, b"\0" + struct.pack(">I", len(body)) + body)


def beginning(size: int, body: bytes, stream: int = 1) -> bytes:
    """Send the beginning of a message of this size."""
    return frame(DATA, 0, stream, b"\0" + struct.pack(">I", size) + body)


class Raw:
    """A connection; what comes in is read when asked for."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, *, limit: int = 1024) -> Raw:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=limit))

    async def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def closed(self, seconds: float = 30) -> bool:
        """Tell whether the other side closed within this time."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except ConnectionResetError:
            pass
        self.close()
        return True

    def close(self) -> None:
        self.writer.transport.abort()
