"""Small TCP servers and clients in a namespace, each a process of its own under any user.

    with Server(b, Kind.ECHO, "10.9.0.2", 7000, banner="hello\\n", user=1500) as echo:
        reply = ask(a, "10.9.0.2", 7000, user=1501)      # reads the banner, then silence or end
        assert reply.received == "hello\\n"
        (connection,) = echo.connections(1)              # waits for it

A server is ready when its constructor's `with` is entered: it has said so itself. Redirection
rules look at the user a socket belongs to, so servers and clients are real processes of that user.
"""

import enum
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import netns

SOURCE = (Path(__file__).parent / "endpoint.py").read_text()
READY_LIMIT_S = 60.0


class Kind(enum.StrEnum):
    """What a server does with a connection.

    ECHO: sends the banner (a server that speaks first), then back what comes. RECORD: the same
    without the echo. HTTP: answers each request with 200 and a JSON body {server, peer, method, path,
    headers}. ORIGINAL_DESTINATION: says "ADDRESS PORT\\n" of what the client wanted before
    redirection (its own address if there was none), and closes: put it where a proxy would listen.
    """

    ECHO = "echo"
    RECORD = "record"
    HTTP = "http"
    ORIGINAL_DESTINATION = "original-destination"


@dataclass(frozen=True)
class Connection:
    """One connection a server had. Addresses are (host, port); `received` is latin-1 text."""

    peer: tuple[str, int]
    local: tuple[str, int]
    wanted: tuple[str, int]
    received: str


@dataclass(frozen=True)
class Reply:
    """What became of one attempt.

    outcome: "answered" (the peer closed, or `until` bytes came), "silent" (connected, then nothing
    more until the timeout), "timeout" (no connection), "refused", "reset", or "error" (no route and
    the like, see `error`). `received` is latin-1 text, whatever the outcome.
    """

    outcome: str
    received: str
    error: str
    local: tuple[str, int] | None
    took_s: float

    @property
    def is_connected(self) -> bool:
        """Whether the connection was made at all."""
        return self.local is not None


@dataclass(frozen=True)
class Target:
    """One attempt to make: connect (from `source` if given), send, read.

    Reading ends when the peer closes, after `until` bytes, or after `timeout_s` without a byte, which
    limits connecting as well. `half_close`: tell the server that nothing more comes.
    """

    host: str
    port: int
    payload: str = ""
    timeout_s: float = 2.0
    until: int = 1 << 20
    half_close: bool = False
    source: str = ""


@dataclass(frozen=True)
class Tally:
    """What a Traffic did: attempts made, how many failed, the first 20 failures, the slowest."""

    made: int
    failed: int
    failures: tuple[dict[str, Any], ...]
    slowest_s: float


class _Process:
    """A child that prints JSON lines; they are read by a thread and waited for with a deadline."""

    def __init__(
        self, namespace: netns.Namespace, role: str, options: object, user: str | int | None
    ) -> None:
        argv = [netns.PYTHON, "-I", "-c", SOURCE, role, json.dumps(options)]
        self.process = namespace.popen(
            argv,
            user=user,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._what = f"{role} in {namespace.label}"
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def next(self, timeout_s: float) -> dict[str, Any]:
        """Return the next line. Raises TimeoutError, or LabError with its words if it ended."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"{self._what}: nothing in {timeout_s} s") from None
        if line is None:
            self._lines.put(None)
            raise netns.LabError(f"{self._what} ended: {self._error()}")
        return line

    def tell(self, line: str) -> None:
        """Write a line to its standard input. Raises OSError if it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """End it and its reader."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(netns.END_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(netns.END_LIMIT_S)
        netns.end([self.process])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def _error(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().strip()


class Server:
    """A TCP server as a process in a namespace. A context manager; see Kind for what it does.

    `user`: a name or a number (user and group), None for root. `port` 0 picks one. `also`: further
    (host, port) to listen on, for both families at once. `name`: what Kind.HTTP calls itself.
    `backlog`: as of listen(2). `shares_port`: with others of its user, as Envoy does.
    """

    def __init__(
        self,
        namespace: netns.Namespace,
        kind: Kind,
        host: str,
        port: int,
        *,
        user: str | int | None = None,
        also: Sequence[tuple[str, int]] = (),
        banner: str = "",
        name: str = "",
        idle_s: float = 60.0,
        backlog: int = 512,
        shares_port: bool = False,
    ) -> None:
        self._namespace = namespace
        self._user = user
        self._options = {
            "backlog": backlog,
            "shares_port": shares_port,
            "kind": kind,
            "listen": [(host, port), *also],
            "banner": banner,
            "name": name or namespace.label,
            "idle_s": idle_s,
        }
        self.host, self.port = host, port
        self._process: _Process | None = None
        self._accepted = 0
        self._ended: list[Connection] = []

    def __enter__(self) -> "Server":
        self._process = _Process(self._namespace, "serve", self._options, self._user)
        try:
            ready = self._process.next(READY_LIMIT_S)
        except BaseException:
            self._process.end()
            raise
        self.port = int(ready["listen"][0][1])
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            self._process.end()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.process.pid

    def connections(self, count: int, *, timeout_s: float = 60.0) -> tuple[Connection, ...]:
        """Wait until `count` connections have ended in all, and return all that have.

        Raises TimeoutError saying how many were accepted and ended.
        """
        return self._wait(lambda: len(self._ended) >= count, f"{count} ended", timeout_s)

    def wait_accepted(self, count: int, *, timeout_s: float = 60.0) -> None:
        """Wait until `count` connections have been accepted in all. Raises TimeoutError."""
        self._wait(lambda: self._accepted >= count, f"{count} accepted", timeout_s)

    def accepted(self) -> int:
        """Return how many connections the server has had so far, without waiting for more.

        Every connection whose client was told that it is connected by now is counted.
        """
        assert self._process is not None
        self._process.tell("count")
        deadline = time.monotonic() + READY_LIMIT_S
        while self._next(deadline)["event"] != "counted":
            pass
        return self._accepted

    def _wait(
        self, is_enough: Callable[[], bool], goal: str, timeout_s: float
    ) -> tuple[Connection, ...]:
        deadline = time.monotonic() + timeout_s
        while not is_enough():
            try:
                self._next(deadline)
            except TimeoutError as error:
                state = f"{self._accepted} accepted, {len(self._ended)} ended"
                raise TimeoutError(f"waiting for {goal}: {state}") from error
        return tuple(self._ended)

    def _next(self, deadline: float) -> dict[str, Any]:
        assert self._process is not None
        line = self._process.next(max(0.0, deadline - time.monotonic()))
        if line["event"] == "accepted":
            self._accepted += 1
        elif line["event"] == "connection":
            self._ended.append(
                Connection(
                    tuple(line["peer"]),
                    tuple(line["local"]),
                    tuple(line["wanted"]),
                    line["received"],
                )
            )
        return line


class Traffic:
    """Attempts one after another, each on a connection of its own, until stopped.

    `needle`: text each answer must hold. A context manager: inside, it has succeeded in making the
    first `announce_at` attempts, failed or not; stop() ends it and tells.
    """

    def __init__(
        self,
        namespace: netns.Namespace,
        target: Target,
        *,
        needle: str = "",
        interval_s: float = 0.01,
        announce_at: int = 3,
        user: str | int | None = None,
    ) -> None:
        self._namespace = namespace
        self._user = user
        self._options = {
            "target": asdict(target),
            "needle": needle,
            "interval_s": interval_s,
            "announce_at": announce_at,
        }
        self._process: _Process | None = None
        self._tally: Tally | None = None

    def __enter__(self) -> "Traffic":
        self._process = _Process(self._namespace, "traffic", self._options, self._user)
        try:
            for _line in ("ready", "flowing"):
                self._process.next(READY_LIMIT_S)
        except BaseException:
            self._process.end()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._process is not None:
            self._process.end()

    def stop(self) -> Tally:
        """End it and return what it did; the attempt under way is finished and counted."""
        if self._tally is None:
            assert self._process is not None
            self._process.process.terminate()
            line = self._process.next(READY_LIMIT_S)
            failures = tuple(line["failures"])
            self._tally = Tally(line["made"], line["failed"], failures, line["slowest_s"])
        return self._tally


def ask_all(
    namespace: netns.Namespace, targets: Sequence[Target], *, user: str | int | None = None
) -> list[Reply]:
    """Make the attempts in turn, in one process of `user`; return one Reply each."""
    options = json.dumps({"targets": [asdict(target) for target in targets]})
    limit_s = READY_LIMIT_S + 3 * sum(target.timeout_s for target in targets)
    argv = [netns.PYTHON, "-I", "-c", SOURCE, "ask", options]
    done = namespace.run(argv, user=user, timeout=limit_s, check=True)
    return [_parse_reply(json.loads(line)) for line in done.stdout.splitlines()]


def ask(
    namespace: netns.Namespace,
    host: str,
    port: int,
    payload: str = "",
    *,
    user: str | int | None = None,
    timeout_s: float = 2.0,
    until: int = 1 << 20,
    half_close: bool = False,
    source: str = "",
) -> Reply:
    """Make one attempt from a process of `user` in the namespace; see Target."""
    target = Target(host, port, payload, timeout_s, until, half_close, source)
    return ask_all(namespace, [target], user=user)[0]


def request(
    namespace: netns.Namespace,
    host: str,
    port: int,
    path: str = "/",
    *,
    user: str | int | None = None,
    timeout_s: float = 5.0,
) -> tuple[Reply, dict[str, Any]]:
    """Make one HTTP request; return the reply and the JSON body of a Kind.HTTP server ({}: none)."""
    wire = render_request(host, path)
    reply = ask(namespace, host, port, wire, user=user, timeout_s=timeout_s)
    _, _, body = reply.received.partition("\r\n\r\n")
    try:
        parsed = json.loads(body)
    except ValueError:
        return reply, {}
    return reply, parsed if isinstance(parsed, dict) else {}


def render_request(host: str, path: str = "/") -> str:
    """Return the text of an HTTP GET that asks for the connection to be closed after it."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"


def _parse_reply(line: dict[str, Any]) -> Reply:
    local = line["local"]
    return Reply(
        line["outcome"],
        line["received"],
        line["error"],
        tuple(local) if local else None,
        line["took_s"],
    )
