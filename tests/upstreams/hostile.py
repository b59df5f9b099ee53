"""A scripted upstream on a raw socket: the last segment of a request's path names what it does.

`BEHAVIOURS` are what upstreams do wrong, each with what the caller must see of it; `GOOD` is what they do right.
The server runs in threads of its own, so that any test can use it, whatever its event loop.

    with ScriptedUpstream() as upstream:
        ...  # GET {upstream.url}/reset-before-head
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Self

HANG_SECONDS = 20.0


@dataclass(frozen=True)
class Seen:
    """A request as it arrived; `connection` numbers the connections from 0."""

    connection: int
    method: str
    target: str
    head: bytes
    body: bytes
    complete: bool

    def header(self, name: str) -> list[str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        fields = [line.partition(":") for line in lines if line]
        return [value.strip() for key, _, value in fields if key.lower() == name]


class Peer:
    """The upstream's end of one connection."""

    def __init__(self, upstream: ScriptedUpstream, sock: socket.socket, number: int) -> None:
        self.upstream = upstream
        self.sock = sock
        self.number = number
        self.buffer = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> bytes:
        try:
            return self.sock.recv(65_536)
        except OSError:
            return b""

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def hang(self) -> None:
        """Say nothing until the other side has gone."""
        self.sock.settimeout(HANG_SECONDS)
        while self.receive():
            pass

    def read_head(self) -> bytes:
        while b"\r\n\r\n" not in self.buffer:
            data = self.receive()
            if not data:
                return b""
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head

    def read_exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            data = self.receive()
            if not data:
                raise EOFError
            self.buffer += data
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            data = self.receive()
            if not data:
                raise EOFError
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def read_body(self, head: bytes) -> tuple[bytes, bool]:
        """The request's body, and whether its end came."""
        body = b""
        try:
            lower = head.lower()
            if b"transfer-encoding: chunked" in lower:
                while size := int(self.read_line(), 16):
                    body += self.read_exactly(size)
                    assert self.read_exactly(2) == b"\r\n"
                assert self.read_line() == b""
            elif b"content-length: " in lower:
                length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
                body = self.read_exactly(length)
        except EOFError:
            return body + self.buffer, False
        return body, True


class ScriptedUpstream:
    """Listens on a port of `host`; remembers what it saw. `scripts` may be changed while it runs."""

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        scripts: Mapping[str, Script] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._tls = tls
        self.scripts: MutableMapping[str, Script] = ChainMap(dict(scripts or {}), SCRIPTS)
        self._listener = socket.create_server((host, port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"
        self.seen: list[Seen] = []
        self.begun_count = 0
        """Requests whose head has arrived."""
        self.connection_count = 0
        self.closed_count = 0
        self.stopping = threading.Event()
        self.afterthought = threading.Event()
        self._lock = threading.Lock()
        self._socks: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stopping.set()
        self.afterthought.set()
        # Shutting a listener down wakes its accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._socks:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(HANG_SECONDS)

    @property
    def open_connections(self) -> int:
        return self.connection_count - self.closed_count

    def requests(self, name: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.target.rpartition("/")[2].partition("?")[0] == name]

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._socks.add(sock)
                number = self.connection_count
                self.connection_count += 1
            self._start(self._serve, sock, number)

    def _serve(self, sock: socket.socket, number: int) -> None:
        plain = sock
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            peer = Peer(self, sock, number)
            while self._serve_one(peer):
                pass
        except (OSError, EOFError):
            pass
        finally:
            with self._lock:
                self._socks.discard(plain)
            sock.close()
            plain.close()
            self.closed_count += 1

    def _serve_one(self, peer: Peer) -> bool:
        head = peer.read_head()
        if not head:
            return False
        self.begun_count += 1
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        name = target.partition("?")[0].rpartition("/")[2]
        script = self.scripts[name]
        body, complete = (b"", False) if name in READS_NO_BODY else peer.read_body(head)
        seen = Seen(peer.number, method, target, head, body, complete)
        self.seen.append(seen)
        if not complete and name not in READS_NO_BODY:
            return False
        return bool(script(peer, seen))


Script = Callable[[Peer, Seen], bool | None]


# What goes wrong.


@dataclass(frozen=True)
class Behaviour:
    """`sees`: what the caller must see.

    unreachable, bad, timeout: the error of the head (502, 502, 504). cut, late: the body breaks off, wrongly or too
    late. whole: the answer is right, but the connection is never used again.
    `httpx_sees`: where httpx can't do as well.
    """

    name: str
    sees: str
    script: Script = field(repr=False)
    httpx_sees: str = ""

    def seen_by(self, transport: str) -> str:
        return self.httpx_sees if transport == "httpx" and self.httpx_sees else self.sees


def says(data: bytes, then: str = "hang") -> Script:
    """Send these bytes, then hang, close or reset."""

    def script(peer: Peer, seen: Seen) -> bool:
        peer.send(data)
        if then == "hang":
            peer.hang()
        elif then == "reset":
            time.sleep(0.05)  # else the reset may overtake the bytes; not a synchronisation
            peer.reset()
        return False

    return script


def drips(prefix: bytes, drop: bytes, seconds: float) -> Script:
    """Send `drop` again and again, slowly."""

    def script(peer: Peer, seen: Seen) -> bool:
        peer.send(prefix)
        while not peer.upstream.stopping.wait(seconds):
            peer.send(drop)
        return False

    return script


def floods(prefix: bytes, flood: bytes) -> Script:
    """Send `flood` without end."""

    def script(peer: Peer, seen: Seen) -> bool:
        peer.send(prefix)
        while True:
            peer.send(flood)

    return script


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def headed(*lines: bytes, body: bytes = b"ok") -> bytes:
    return OK + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


TWO = b"Content-Length: 2"

BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("close-before-head", "unreachable", says(b"", "close")),
    Behaviour("reset-before-head", "unreachable", says(b"", "reset")),
    Behaviour("no-head", "timeout", says(b"")),
    Behaviour("half-head-close", "bad", says(OK + b"Content-", "close"), "unreachable"),
    Behaviour("half-head-reset", "unreachable", says(OK + b"Content-", "reset")),
    Behaviour("half-head-hang", "timeout", says(OK + b"Content-")),
    Behaviour("head-drips", "timeout", drips(OK, b"A: b\r\n", 0.05)),
    Behaviour("garbage", "bad", says(b"\x16\x03\x01\x02\x00 not HTTP at all\r\n\r\n")),
    Behaviour("http-0.9", "bad", says(b"<html>hello</html>\r\n", "close"), "unreachable"),
    Behaviour("version-0.9", "bad", says(b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok")),
    Behaviour("version-2.0", "bad", says(b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok")),
    Behaviour("version-9.9", "bad", says(b"HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\nok")),
    Behaviour("http2-settings", "bad", says(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64" * 4)),
    Behaviour("http2-preface", "bad", says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    Behaviour("status-42", "bad", says(b"HTTP/1.1 42 What\r\nContent-Length: 2\r\n\r\nok")),
    Behaviour("status-999", "bad", says(b"HTTP/1.1 999 What\r\nContent-Length: 2\r\n\r\nok")),
    Behaviour("status-000", "bad", says(b"HTTP/1.1 000 What\r\nContent-Length: 2\r\n\r\nok")),
    Behaviour("head-1mb", "bad", says(headed(b"A: " + b"a" * 1_000_000, TWO))),
    Behaviour("head-1mb-fields", "bad", says(headed(*[b"A: a"] * 170_000, TWO))),
    Behaviour("nul-in-header", "bad", says(headed(b"A: b\0c", TWO))),
    Behaviour("cr-in-header", "bad", says(headed(b"A: b\rSet-Cookie: c", TWO))),
    Behaviour("lf-in-header", "bad", says(headed(b"A: b\nSet-Cookie: c", TWO)), "whole"),
    Behaviour("obs-fold", "bad", says(headed(b"A: b\r\n c", TWO)), "whole"),
    Behaviour("space-before-colon", "bad", says(headed(b"A : b", TWO))),
    Behaviour("no-colon", "bad", says(headed(b"What", TWO))),
    Behaviour("two-content-lengths", "bad", says(headed(TWO, b"Content-Length: 3"))),
    Behaviour("equal-content-lengths", "bad", says(headed(TWO, TWO)), "whole"),
    Behaviour("content-length-list", "bad", says(headed(b"Content-Length: 2, 2")), "whole"),
    Behaviour("content-length-signed", "bad", says(headed(b"Content-Length: +2"))),
    Behaviour("content-length-hex", "bad", says(headed(b"Content-Length: 0x2"))),
    Behaviour("content-length-huge", "bad", says(headed(b"Content-Length: " + b"9" * 30))),
    Behaviour("length-and-chunked", "bad", says(headed(TWO, b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"))),
    Behaviour("coding-unknown", "bad", says(headed(b"Transfer-Encoding: gzip"))),
    Behaviour("coding-twice", "bad", says(headed(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"))),
    Behaviour("unasked-101", "bad", says(b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")),
    Behaviour("endless-1xx", "bad", says(b"HTTP/1.1 103 Early\r\n\r\n" * 100 + headed(TWO)), "whole"),
    Behaviour("1xx-with-length", "bad", says(b"HTTP/1.1 103 E\r\nContent-Length: 2\r\n\r\nok" + headed(TWO))),
    Behaviour("chunk-size-bad", "cut", says(CHUNKED + b"2\r\nok\r\nzz\r\nok\r\n0\r\n\r\n")),
    Behaviour("chunk-size-signed", "cut", says(CHUNKED + b"+2\r\nok\r\n0\r\n\r\n")),
    Behaviour("chunk-size-overflow", "cut", says(CHUNKED + b"1" + b"0" * 16 + b"2\r\nok\r\n0\r\n\r\n"), "late"),
    Behaviour("chunk-without-crlf", "cut", says(CHUNKED + b"2\r\nokXX0\r\n\r\n")),
    Behaviour("chunk-extension-endless", "cut", floods(CHUNKED + b"2;", b"a" * 4096)),
    Behaviour("trailers-endless", "cut", floods(CHUNKED + b"2\r\nok\r\n0\r\n", b"A: b\r\n" * 1000)),
    Behaviour("trailer-endless", "cut", floods(CHUNKED + b"2\r\nok\r\n0\r\nA: ", b"b" * 4096)),
    Behaviour("chunked-cut", "cut", says(CHUNKED + b"5\r\nhel", "close")),
    Behaviour("chunked-without-end", "cut", says(CHUNKED + b"5\r\nhello\r\n", "close")),
    Behaviour("length-short", "cut", says(headed(b"Content-Length: 10"), "close")),
    Behaviour("length-short-reset", "cut", says(headed(b"Content-Length: 10"), "reset"), "cut"),
    Behaviour("body-silent", "late", says(headed(b"Content-Length: 10"))),
    Behaviour("chunked-silent", "late", says(CHUNKED + b"5\r\nhello\r\n")),
    Behaviour("length-long", "whole", says(headed(TWO, body=b"okmore"))),
    Behaviour("second-response", "whole", says(headed(TWO) + headed(b"X-Evil: 1", TWO, body=b"no"))),
    Behaviour("204-with-body", "whole", says(b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok")),
    Behaviour("304-with-body", "whole", says(b"HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\nok")),
)


# What goes right.


def answers(data: bytes) -> Script:
    """A good answer; the connection lives on."""

    def script(peer: Peer, seen: Seen) -> bool:
        peer.send(data)
        return True

    return script


def echo(peer: Peer, seen: Seen) -> bool:
    """The request as JSON: method, target, header lines, body length and SHA-256."""
    lines = seen.head.decode("latin-1").split("\r\n")[1:]
    digest = hashlib.sha256(seen.body).hexdigest()
    told = {"method": seen.method, "target": seen.target, "headers": lines, "bytes": len(seen.body), "sha256": digest}
    body = json.dumps(told).encode()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return True


def big(peer: Peer, seen: Seen) -> bool:
    """8 MiB with a length."""
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG_BYTES)
    peer.send(bytes(BIG_BYTES))
    return True


BIG_BYTES = 8 * 1024 * 1024


def endless(peer: Peer, seen: Seen) -> bool:
    """Chunks of 64 KiB until nobody takes more."""
    peer.send(CHUNKED)
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    while True:
        peer.send(chunk)


def bytewise(data: bytes) -> Script:
    """A good answer, a byte at a time."""

    def script(peer: Peer, seen: Seen) -> bool:
        for i in range(len(data)):
            peer.send(data[i : i + 1])
        return True

    return script


def early(peer: Peer, seen: Seen) -> bool:
    """Answers when some of the body has come, and does not want the rest."""
    peer.read_exactly(1)
    peer.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    peer.hang()
    return False


def early_open(peer: Peer, seen: Seen) -> bool:
    """Answers before it has read the body, and would take another request behind it."""
    peer.send(headed(TWO))
    peer.hang()
    return False


def afterthought(peer: Peer, seen: Seen) -> bool:
    """A good answer, and a second one nobody asked for once the first was read."""
    peer.send(headed(TWO))
    peer.upstream.afterthought.wait(HANG_SECONDS)
    peer.send(headed(TWO, body=b"no"))
    return True


def duplex(peer: Peer, seen: Seen) -> bool:
    """Answers each chunk of a chunked body with the same chunk, as it comes."""
    peer.send(CHUNKED)
    while size := int(peer.read_line(), 16):
        data = peer.read_exactly(size)
        peer.read_exactly(2)
        peer.send(b"%x\r\n%b\r\n" % (size, data))
    peer.read_line()
    peer.send(b"0\r\n\r\n")
    return True


def tunnel(peer: Peer, seen: Seen) -> bool:
    """A WebSocket handshake with bytes right behind it, then an echo of raw bytes."""
    key = seen.header("sec-websocket-key")[0].encode()
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    peer.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\nfirst"
    )
    data = peer.buffer
    while data or (data := peer.receive()):
        peer.send(data)
        data = b""
    return False


def closes_after(peer: Peer, seen: Seen) -> bool:
    """A good answer without Connection: close, then the connection closes: what makes reuse risky."""
    peer.send(headed(TWO))
    return False


def closes_on_reuse(peer: Peer, seen: Seen) -> bool:
    """Answers the first request on a connection; the second is read, and the connection closes."""
    first = next(other for other in peer.upstream.seen if other.connection == peer.number)
    if seen is not first:
        return False
    peer.send(headed(TWO))
    return True


def slow(peer: Peer, seen: Seen) -> bool:
    """A good answer after 50 ms."""
    time.sleep(0.05)
    peer.send(headed(TWO))
    return True


WITH_TRAILERS = OK + (
    b"Transfer-Encoding: chunked\r\nTrailer: X-Credits-Used\r\n\r\n"
    b"5\r\nhello\r\n7;ext=1\r\n, world\r\n0\r\nX-Credits-Used: 3\r\nx-b: 4\r\n\r\n"
)

GOOD: dict[str, Script] = {
    "ok": answers(headed(b"Content-Type: text/plain", TWO)),
    "empty": answers(headed(b"Content-Length: 0", body=b"")),
    "chunked": answers(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"),
    "trailers": answers(WITH_TRAILERS),
    "trailers-bytewise": bytewise(WITH_TRAILERS),
    "close-delimited": says(headed(b"Content-Type: text/plain", body=b"to the end"), "close"),
    "close-announced": answers(headed(TWO, b"Connection: close")),
    "http-1.0": says(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "close"),
    "continue": answers(b"HTTP/1.1 100 Continue\r\n\r\n" + headed(TWO)),
    "early-hints": answers(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + headed(b"A: b", TWO)),
    "head": answers(headed(b"Content-Length: 1000", body=b"")),
    "head-chunked": answers(headed(b"Transfer-Encoding: chunked", body=b"")),
    "204": answers(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": answers(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: x\r\n\r\n"),
    "205": answers(b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
    "503": answers(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nRetry-After: 1\r\n\r\nbusy"),
    "302": answers(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
    "set-cookie": answers(headed(b"Set-Cookie: a=b; Path=/", TWO)),
    "echo": echo,
    "big": big,
    "endless": endless,
    "early": early,
    "early-open": early_open,
    "afterthought": afterthought,
    "duplex": duplex,
    "tunnel": tunnel,
    "closes-after": closes_after,
    "closes-on-reuse": closes_on_reuse,
    "slow": slow,
}

READS_NO_BODY = frozenset({"early", "early-open", "duplex", "reads-nothing"})
SCRIPTS: dict[str, Script] = {
    "reads-nothing": lambda peer, seen: not peer.upstream.stopping.wait(HANG_SECONDS),
    **GOOD,
    **{b.name: b.script for b in BEHAVIOURS},
}


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def blackhole_port() -> Iterator[int]:
    """A port that answers no SYN: its accept queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        time.sleep(0.05)
        yield port
