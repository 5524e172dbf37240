"""The HTTP ground under the loopback servers: one `handle` method, planned faults, a request log.

A server runs inside the test process (`with SomeServer() as server: server.url`) or as a process of its
own (`serve_until_told` in its `main`, `spawned` in the test). Both are driven alike: in process by the
attributes `faults`, `log`, `latency_s`; from outside by HTTP requests under `/_test/`:

    POST /_test/faults    a JSON list of objects with the fields of `Fault`; replaces the plan, and answers how often
                          each fault of the old one was taken
    GET  /_test/requests  {label: count}        GET  /_test/unknown   requests the server did not know
    GET  /_test/errors    tracebacks of `handle` POST /_test/reset    empties the log and these lists
    POST /_test/latency   {"seconds": 0.03}     anything else: the server's own `control`
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.client import responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

PIECES = 50  # of a body that trickles
FLOOD_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Fault:
    """What shall go wrong with the requests whose label `match` (a regular expression) is found in.

    `within`: only those whose label or body holds this text, such as a run id.

    Actions known here: `status` answers `status`, `headers`, `body` and applies nothing; `drop` closes the
    connection and applies nothing; `truncate` applies, promises the whole body and sends half; `slow` waits
    `delay_s`, then goes on as usual; `trickle` sends the body steadily, for `delay_s` in all; `lost_answer` applies
    and closes the connection instead of answering; `flood` applies nothing and answers `status` with `size_bytes` of
    JSON, compressed if `headers` say `Content-Encoding: gzip`.
    Any other action is left to the server, which finds it in `Request.fault`.
    """

    match: str
    action: str
    times: int | None = 1  # None: for ever
    skip: int = 0  # so many matching requests pass unharmed first
    delay_s: float = 0.0  # waited before any action
    size_bytes: int = 0  # of a flood, decompressed
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = '{"errors": [{"message": "planned fault"}]}'
    within: str = ""


class FaultPlan:
    """Faults in order: the first that matches, is past its `skip` and is not used up is taken."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._seen: list[int] = []
        self.set(faults)

    def set(self, faults: Sequence[Fault]) -> list[int]:
        """Replace the plan; returns how often each fault of the old one was taken."""
        with self._lock:
            taken = [max(0, seen - fault.skip) for fault, seen in zip(self._faults, self._seen, strict=True)]
            self._faults = list(faults)
            self._seen = [0] * len(self._faults)  # matching requests so far, of each fault
        return taken

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)
            self._seen.append(0)

    def take(self, label: str, body: bytes = b"") -> Fault | None:
        with self._lock:
            for number, fault in enumerate(self._faults):
                seen = self._seen[number]
                used_up = fault.times is not None and seen >= fault.skip + fault.times
                if used_up or not re.search(fault.match, label):
                    continue
                if fault.within not in label and fault.within.encode() not in body:
                    continue
                self._seen[number] += 1
                if seen >= fault.skip:
                    return fault
        return None


class RequestLog:
    """Every request but those under `/_test/`: `entries` as (label, time.monotonic()), `counts` by label."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self.entries: list[tuple[str, float]] = []
            self.counts: Counter[str] = Counter()

    def add(self, label: str) -> None:
        with self._lock:
            self.entries.append((label, time.monotonic()))
            self.counts[label] += 1

    def count(self, pattern: str) -> int:
        """How many requests had a label in which the regular expression `pattern` is found."""
        with self._lock:
            return sum(n for label, n in self.counts.items() if re.search(pattern, label))


@dataclass
class Request:
    """One request; `path` is still percent-encoded and has no query, `headers` ignore case."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes
    fault: Fault | None = None

    def json(self) -> Any:
        return json.loads(self.body or b"null")


@dataclass
class Response:
    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, value: Any, status: int = 200) -> Response:
        return cls(status, json.dumps(value).encode())


class Server:
    """Subclasses write `handle`, where useful `label` and `control`; these run in many threads at once."""

    def __init__(self, *, port: int = 0, latency_s: float = 0.0) -> None:
        self.latency_s = latency_s  # added to every request but those under /_test/
        self.clock_ahead_s = 0.0  # of the Date header of every answer
        self.faults = FaultPlan()
        self.log = RequestLog()
        self.unknown: list[str] = []  # requests the server did not recognise
        self.errors: list[str] = []  # tracebacks of handlers that raised
        self._http = _HTTPServer(("127.0.0.1", port), _Handler)
        self._http.owner = self
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def connections_made(self) -> int:
        """How many connections clients have opened so far."""
        return self._http.accepted

    def handle(self, request: Request) -> Response:
        raise NotImplementedError

    def label(self, request: Request) -> str:
        """The name of a request in the log and for faults."""
        return f"{request.method} {request.path}"

    def control(self, name: str, data: Any) -> Any:
        """The JSON answer to `/_test/NAME`; `data`: the JSON sent or the query. KeyError: no such control."""
        raise KeyError(name)

    def announcement(self) -> dict[str, Any]:
        """What a server in a process of its own prints when it is ready, as one line of JSON."""
        return {"url": self.url}

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close the port and every open connection."""
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self._http.connections):
            _hang_up(connection)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, request: Request) -> Response:
        try:
            return self.handle(request)
        except Exception:  # noqa: BLE001 - a fault of the server must reach the test, not end a thread
            self.errors.append(f"{self.label(request)}\n{traceback.format_exc()}")
            return Response.of_json({"errors": [{"message": "the test server failed"}]}, 500)

    def answer_control(self, request: Request) -> Response:
        try:
            data = request.json() if request.body else request.query or None
            return Response.of_json(self._control(request.path.removeprefix("/_test/"), data))
        except (KeyError, TypeError, ValueError) as error:
            return Response.of_json({"error": repr(error)}, 400)

    def _control(self, name: str, data: Any) -> Any:
        match name:
            case "faults":
                return self.faults.set([Fault(**fault) for fault in data])
            case "latency":
                self.latency_s = float(data["seconds"])
            case "requests":
                return self.log.counts
            case "unknown" | "errors":
                return getattr(self, name)
            case "reset":
                self.log.clear()
                self.unknown.clear()
                self.errors.clear()
            case _:
                return self.control(name, data)
        return {}


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True
    owner: Server

    def __init__(self, *args: Any) -> None:
        self.connections: set[socket.socket] = set()
        self.accepted = 0
        super().__init__(*args)

    def get_request(self) -> tuple[socket.socket, Any]:
        self.accepted += 1
        return super().get_request()

    def server_bind(self) -> None:  # HTTPServer's own asks the name service for the host's full name
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer on a kept connection can wait 40 ms
    server: _HTTPServer

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client went away, or `stop` closed the connection
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        path, _, query = re.sub(r"^http://[^/]*", "", self.path).partition("?")  # absolute, when asked as a proxy
        headers: Any = self.headers  # a Mapping in all but name
        request = Request(self.command, path, dict(parse_qsl(query, True)), headers, self._body())
        owner = self.server.owner
        if path.startswith("/_test/"):
            self._send(owner.answer_control(request))
            return
        label = owner.label(request)
        owner.log.add(label)
        request.fault = fault = owner.faults.take(label, request.body)
        action = fault.action if fault else ""
        time.sleep(owner.latency_s + (fault.delay_s if fault and action != "trickle" else 0.0))
        if fault and action == "status":
            self._send(Response(fault.status, fault.body.encode(), headers=fault.headers))
        elif action == "drop":
            self._drop()
        elif fault and action == "flood":
            self._flood(fault)
        else:
            response = owner.answer(request)
            if action == "lost_answer":
                self._drop()
            else:
                self._send(
                    response, cut=action == "truncate", over_s=fault.delay_s if fault and action == "trickle" else 0
                )

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _answer

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self._read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self._read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(parts)

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionResetError("the client went away in the middle of its request")
        return data

    def _send(self, response: Response, *, cut: bool = False, over_s: float = 0.0) -> None:
        lines = [f"HTTP/1.1 {response.status} {responses.get(response.status, '-')}"]
        date = formatdate(time.time() + self.server.owner.clock_ahead_s, usegmt=True)
        lines += [f"Date: {date}", f"Content-Type: {response.content_type}", f"Content-Length: {len(response.body)}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        body = b"" if self.command == "HEAD" else response.body[: len(response.body) // 2 if cut else None]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        if over_s:
            self.wfile.write(head)
            piece = -(-len(body) // PIECES)
            for start in range(0, len(body), piece):
                time.sleep(over_s / PIECES)
                self.wfile.write(body[start : start + piece])
            return
        self.wfile.write(head + body)
        if cut:
            self._drop()

    def _flood(self, fault: Fault) -> None:
        """Send a JSON text of `fault.size_bytes`; the checksum of a compressed one is wrong."""
        begin, piece, end = b'{"data": {"text": "', b"x" * FLOOD_PIECE_BYTES, b'"}}'
        count = fault.size_bytes // FLOOD_PIECE_BYTES
        pieces = [begin, piece, end]
        if fault.headers.get("Content-Encoding") == "gzip":
            packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
            pieces = [packer.compress(one) + packer.flush(zlib.Z_FULL_FLUSH) for one in pieces]
            pieces[2] += packer.flush()
        size_bytes = len(pieces[0]) + count * len(pieces[1]) + len(pieces[2])
        lines = [f"HTTP/1.1 {fault.status} -", "Content-Type: application/json", f"Content-Length: {size_bytes}"]
        lines += [f"{name}: {value}" for name, value in fault.headers.items()]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + pieces[0])
        for _ in range(count):
            self.wfile.write(pieces[1])
        self.wfile.write(pieces[2])

    def _drop(self) -> None:
        self.close_connection = True
        _hang_up(self.connection)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other side was faster
        pass


def serve_until_told(server: Server) -> None:
    """Serve in a process of its own: print `announcement`; end on SIGTERM, or without stdin or parent."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with server:
        print(json.dumps(server.announcement()), flush=True)
        while os.getppid() == parent:
            if select.select([0], [], [], 1.0)[0] and not os.read(0, 4096):
                break


@contextmanager
def spawned(module: str, *arguments: str) -> Iterator[str]:
    """Run `python -m MODULE ARGUMENTS` beside this process; gives its URL, ends it at the end."""
    command = [sys.executable, "-m", module, *arguments]
    pipe, root = subprocess.PIPE, Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


def control(url: str, name: str, data: Any = None) -> Any:
    """POST `data` to a server's `/_test/NAME` (GET when None) and return its JSON answer."""
    body = None if data is None else json.dumps(data).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/_test/{name}", body), timeout=60) as answer:
        return json.load(answer)
