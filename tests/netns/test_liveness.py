"""A proxy that hangs is replaced, one that only says no or is held by somebody is not."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.host import doors as door
from istio_hostagent.host import mailbox, procstate
from istio_hostagent.supervise.liveness import Answer, Door
from tests.lab import netns
from tests.lab.host import Host
from tests.lab.waiting import eventually
from tests.netns.conftest import CAPTURING, MakeHost, join, stand_in
from tests.netns.test_trial import is_in_mesh

# The budget of the issue is 15 s on an idle machine; the figure itself is the bench's to show.
REPLACED_S = 40

# A proxy that answers its readiness with what a file says, and each request after a pause.
ANSWERING = """
import http.server, pathlib, socketserver, sys, threading, time
answer = pathlib.Path(sys.argv[1])
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        word = answer.read_text()
        while word == "silent":
            time.sleep(0.05)
            word = answer.read_text()
        self.send_response(int(word))
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
for port in (15000, 15021):
    threading.Thread(target=Server(("127.0.0.1", port), Handler).serve_forever).start()
"""


@pytest.fixture
def answer() -> Iterator[Path]:
    path = Path(f"/tmp/hatest-answer-{os.getpid()}")
    path.write_text("200")
    path.chmod(0o644)
    yield path
    path.unlink()


def answering(host: Host, answer: Path) -> None:
    script = host.directory / "answering.py"
    script.write_text(CAPTURING + ANSWERING)
    script.chmod(0o644)
    stand_in(host, f"exec /usr/bin/python3 {script} {answer}")


def starts(host: Host) -> int:
    return int(host.status()["proxy"]["starts"])


def test_an_envoy_that_is_stopped_is_continued(make_host: MakeHost, envoy: str) -> None:
    host = make_host(envoy=envoy)
    join(host)
    report = host.status()
    assert report["control_plane"]["state"] == "none"
    pid = report["proxy"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    # On a busy machine it takes a moment, in which it looks as if it had been continued already.
    eventually(lambda: "proxy was stopped" in host.log_text(), "noticed", within_s=REPLACED_S)
    eventually(
        lambda: procstate.probe_hold(pid) is procstate.Hold.NONE, "continued", within_s=REPLACED_S
    )
    eventually(lambda: is_in_mesh(host), "it serves again")
    assert host.status()["proxy"]["pid"] == pid
    # Once is an accident, twice is a hang.
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: starts(host) == 2, "it was replaced", within_s=REPLACED_S)
    eventually(lambda: is_in_mesh(host), "the new one serves")


def test_a_proxy_that_is_silent_is_replaced_and_said_to_be_not_in_the_mesh(
    make_host: MakeHost, answer: Path
) -> None:
    host = make_host()
    answering(host, answer)
    join(host)
    answer.write_text("silent")
    eventually(lambda: not is_in_mesh(host), "it is noticed", within_s=REPLACED_S)
    eventually(lambda: "hangs" in host.log_text(), "it is named", within_s=REPLACED_S)
    answer.write_text("200")
    eventually(lambda: starts(host) == 2 and is_in_mesh(host), "the new one serves")


def test_a_proxy_that_says_no_is_left_alone(make_host: MakeHost, answer: Path) -> None:
    host = make_host()
    answering(host, answer)
    join(host)
    pid = host.status()["proxy"]["pid"]
    answer.write_text("503")
    eventually(lambda: not is_in_mesh(host), "it is noticed", within_s=REPLACED_S)
    # Longer than a hang takes to be known.
    until = time.monotonic() + 16
    eventually(lambda: time.monotonic() > until, "time passes", within_s=60)
    assert host.status()["proxy"]["pid"] == pid
    answer.write_text("200")
    eventually(lambda: is_in_mesh(host), "it serves again")
    assert starts(host) == 1


def test_a_proxy_below_a_debugger_is_reported_and_not_ended(
    make_host: MakeHost, answer: Path
) -> None:
    host = make_host()
    answering(host, answer)
    join(host)
    pid = host.status()["proxy"]["pid"]
    code = (
        "import ctypes, os, signal, sys; libc = ctypes.CDLL(None, use_errno=True)\n"
        f"for thread in map(int, os.listdir('/proc/{pid}/task')):\n"
        "    assert libc.ptrace(16, thread, 0, 0) == 0\n"  # PTRACE_ATTACH
        "    os.waitpid(thread, 0x40000000)\n"  # __WALL
        "print('attached', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as debugger:
        assert debugger.stdout is not None
        assert debugger.stdout.readline() == "attached\n"
        eventually(
            lambda: "debugger" in host.status()["proxy"]["last_error"],
            "named",
            within_s=REPLACED_S,
        )
        until = time.monotonic() + 10
        eventually(lambda: time.monotonic() > until, "time passes", within_s=60)
        assert host.status()["proxy"]["pid"] == pid
    eventually(lambda: is_in_mesh(host), "it serves again")
    assert starts(host) == 1


class TestDoors:
    """The asynchronous questions themselves."""

    @pytest.fixture
    def space(self) -> Iterator[netns.Namespace]:
        with netns.Namespace("doors") as made:
            yield made

    @staticmethod
    def begin(space: netns.Namespace, *asked: Door) -> tuple[door.Doors, mailbox.Mailbox[str]]:
        inbox: mailbox.Mailbox[str] = mailbox.Mailbox()
        made = door.Doors(inbox)
        space.inside(lambda: made.ask(asked, lambda: "answered"))
        return made, inbox

    def ask(self, space: netns.Namespace, *ports: int, wait_s: float) -> dict[int, Answer]:
        asked = [Door("p", port, "/ready") for port in ports]
        made, inbox = self.begin(space, *asked)
        end = time.monotonic() + wait_s
        while not made.is_answered and time.monotonic() < end:
            inbox.wait(end - time.monotonic())
        answers = made.read()
        return {each.port: answers[each] for each in asked}

    def test_nobody_listening_is_refused(self, space: netns.Namespace) -> None:
        assert self.ask(space, 15000, wait_s=5) == {15000: Answer.REFUSED}

    def test_a_listener_that_never_accepts_is_silent(self, space: netns.Namespace) -> None:
        with space.bind("127.0.0.1", 15000) as one, space.bind("127.0.0.1", 15021) as full:
            one.listen()
            full.listen(0)
            # Its queue of connections is full: not even the request can be sent.
            waiting = [space.connect("127.0.0.1", 15021)]
            answers = self.ask(space, 15000, 15021, wait_s=0.5)
            assert answers == {15000: Answer.SILENT, 15021: Answer.SILENT}
            for each in waiting:
                each.close()

    def test_what_is_not_200_is_unready_and_so_is_a_closed_connection(
        self, space: netns.Namespace
    ) -> None:
        code = (
            "import socket\n"
            "s = socket.create_server(('127.0.0.1', 15000)); t = socket.create_server(('127.0.0.1', 15021))\n"
            "u = socket.create_server(('127.0.0.1', 15020)); print('up', flush=True)\n"
            "c, _ = s.accept(); c.recv(999); c.sendall(b'HTTP/1.1 503 no'); c.close()\n"
            "c, _ = t.accept(); c.recv(999); c.close()\n"
            "c, _ = u.accept(); c.recv(999); c.sendall(b'HTTP/1.0 200 OK'); c.close()\n"
        )
        with space.popen(["/usr/bin/python3", "-c", code], stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            server.stdout.readline()
            assert self.ask(space, 15000, 15021, 15020, wait_s=5) == {
                15000: Answer.UNREADY,
                15021: Answer.UNREADY,
                15020: Answer.READY,
            }

    @pytest.mark.parametrize(
        ("rest", "kept"),
        [(b"server: x\r\n\r\ntext", b"server: x\r\n\r\ntext"), (b"y" * 500, b"y" * 83)],
        ids=["its-end", "the-limit"],
    )
    def test_a_text_is_kept_up_to(self, space: netns.Namespace, rest: bytes, kept: bytes) -> None:
        asked = Door("p", 15000, "/stats", max_text=100)
        begin = b"HTTP/1.1 200 OK\r\n"
        with space.bind("127.0.0.1", 15000) as server:
            server.listen()
            made, inbox = self.begin(space, asked)
            with server.accept()[0] as connection:
                connection.sendall(begin)
                eventually(lambda: made.look() == {asked: Answer.READY}, "it began")
                connection.sendall(rest)
            assert inbox.wait(5) == ["answered"]
        assert made.read() == {asked: Answer.READY}
        assert made.text(asked) == begin + kept
        made.ask([])
        assert made.text(asked) == b""

    def test_looking_leaves_open_what_has_not_answered(self, space: netns.Namespace) -> None:
        with space.bind("127.0.0.1", 15000) as server:
            server.listen()
            asked = Door("p", 15000, "/ready")
            made, _ = self.begin(space, asked)
            assert made.look() == {asked: Answer.SILENT}
            with server.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 503 no")
            eventually(lambda: made.look() == {asked: Answer.UNREADY}, "the answer is seen")
