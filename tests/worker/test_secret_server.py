"""The secret server as a process: who is let in, what is given out when, and what it survives."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from istio_hostagent.host import secretfiles, secretserver
from tests.lab import sds
from tests.lab import secretserver as lab
from tests.lab.secretserver import SecretServer
from tests.lab.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

UID = 61337
STRANGER = 61338
KEY = "-----BEGIN PRIVATE KEY-----\n{0}\n-----END PRIVATE KEY-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n{0}\n-----END CERTIFICATE-----\n"
ALL = (b"default", b"ROOTCA")


class Place:
    """A directory of OUTPUT_CERTS, of the proxy's user."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.output = base / "certs"
        self.make_directory(self.output)
        self._generations = 0

    def make_directory(self, path: Path) -> None:
        path.mkdir()
        os.chown(path, UID, UID)

    def write(self, mark: str, within: Path | None = None, *names: str) -> None:
        """Write files in place, one after another."""
        texts = {"key.pem": KEY, "cert-chain.pem": CERTIFICATE, "root-cert.pem": CERTIFICATE}
        for name in names or texts:
            path = (within or self.output) / name
            path.write_text(texts[name].format(f"{name} {mark}"))
            os.chown(path, UID, UID)
            path.chmod(0o600)

    def swap(self, mark: str, output: Path | None = None) -> None:
        """Switch to a new generation, as the product does."""
        output = output or self.output
        self._generations += 1
        generation = self.base / f"gen-{self._generations:06d}"
        self.make_directory(generation)
        self.write(mark, generation)
        for name in ("key.pem", "cert-chain.pem", "root-cert.pem"):
            link = output / name
            if not link.is_symlink():
                link.unlink(missing_ok=True)
                link.symlink_to(f"..data/{name}")
        staged = self.base / "staged"
        staged.symlink_to(generation)
        staged.rename(output / "..data")


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="hatest-sds-") as text:
        base = Path(text)
        base.chmod(0o755)
        os.chown(base, UID, UID)
        yield Place(base)


Start = Callable[..., SecretServer]


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    made = []

    def begin(
        directory: Path | None = None, listener: socket.socket | None = None, open_files: int = 0
    ) -> SecretServer:
        path = place.base / "socket"
        server = SecretServer(
            directory or place.output, path, UID, listener=listener, open_files=open_files
        )
        made.append(server)
        return server

    yield begin
    for server in made:
        server.kill()


def subscribe(server: SecretServer, *names: bytes, method: str = sds.STREAM) -> sds.Socket:
    """Ask for secrets, all of them if none is named; the call is stream 1."""
    client = sds.Socket(server.path)
    stream = client.client.open(method)
    ask = sds.request if method == sds.STREAM else sds.delta
    client.client.send(stream, ask(*(names or ALL)))
    client.flush()
    return client


def marks(response: bytes) -> set[str]:
    """The marks of all texts in a response."""
    words = b" ".join(sds.found(response).values()).decode(errors="replace").split()
    return {word for word in words if word.startswith("mark-")}


def wait_mark(client: sds.Socket, mark: str) -> bytes:
    """Wait for an answer that is of this mark alone, whatever comes before."""
    messages = client.client.messages[1]
    client.flush()
    while not messages or mark not in marks(messages[-1]):
        assert client.read_once(), "the server has closed the connection"
    assert marks(messages[-1]) == {mark}
    return messages[-1]


@pytest.mark.parametrize("method", [sds.STREAM, sds.DELTA])
def test_each_switch_is_given_out_at_once_and_is_of_one_generation(
    place: Place, start: Start, method: str
) -> None:
    place.swap("mark-0")
    with subscribe(start(), method=method) as client:
        wait_mark(client, "mark-0")
        for number in range(1, 21):
            place.swap(f"mark-{number}")
            wait_mark(client, f"mark-{number}")
        assert all(len(marks(each)) == 1 for each in client.client.messages[1])


def test_a_failure_that_no_change_of_files_ends_is_tried_again(place: Place, start: Start) -> None:
    place.swap("mark-0")
    server = start(open_files=24)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(subscribe(server))
        wait_mark(client, "mark-0")
        idle = contextlib.ExitStack()
        stack.push(idle)
        while len(os.listdir(f"/proc/{server.pid}/fd")) < 23:
            wait_mark(idle.enter_context(subscribe(server)), "mark-0")
        place.swap("mark-1")
        server.wait_log("Too many open files; what was given out before stays")
        idle.close()
        wait_mark(client, "mark-1")


@pytest.mark.parametrize("how", ["others leave", "there is room again"])
def test_who_cannot_be_let_in_waits_and_costs_nothing(
    place: Place, start: Start, how: str
) -> None:
    place.swap("mark-0")
    server = start(open_files=24)
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(subscribe(server)) for _ in range(24)]
        server.wait_log("a client could not be let in: Too many open files")
        before = server.ticks()
        # No event says that nothing happens: a server that turns takes all of this.
        time.sleep(2.0)
        assert server.ticks() - before < 20
        if how == "there is room again":
            user = [f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
            raising = ["/usr/bin/prlimit", f"--pid={server.pid}", "--nofile=48"]
            subprocess.run(["/usr/bin/setpriv", *user, *raising], check=True)
        for each in others[:12]:
            wait_mark(each, "mark-0")
            if how == "others leave":
                each.close()
        for each in others[12:]:
            wait_mark(each, "mark-0")


def test_who_comes_before_the_first_certificate_waits_for_it(place: Place, start: Start) -> None:
    server = start()
    with subscribe(server) as client:
        server.wait_log("No such file")
        place.swap("mark-1")
        wait_mark(client, "mark-1")


def test_the_directory_may_come_later_and_behind_a_link(place: Place, start: Start) -> None:
    place.output.rmdir()
    link = place.base / "current"
    with subscribe(start(link)) as client:
        link.symlink_to(place.output)
        place.make_directory(place.output)
        place.swap("mark-1")
        wait_mark(client, "mark-1")
        # OUTPUT_CERTS has changed.
        other = place.base / "other"
        place.make_directory(other)
        place.swap("mark-2", other)
        (place.base / "link").symlink_to(other)
        (place.base / "link").rename(link)
        wait_mark(client, "mark-2")
        # What lies where nobody looks any more does not matter, what lies there does.
        place.swap("mark-3")
        place.swap("mark-4", other)
        wait_mark(client, "mark-4")
        assert "mark-3" not in str(client.client.messages)


def test_a_directory_that_is_replaced_is_followed(place: Place, start: Start) -> None:
    place.swap("mark-1")
    with subscribe(start()) as client:
        wait_mark(client, "mark-1")
        place.output.rename(place.base / "before")
        place.make_directory(place.output)
        place.swap("mark-2")
        wait_mark(client, "mark-2")


def test_files_that_somebody_writes_one_after_another_are_given_out_as_a_set(
    place: Place, start: Start
) -> None:
    place.write("mark-1")
    with subscribe(start()) as client:
        wait_mark(client, "mark-1")
        messages = client.client.messages[1]
        for number in range(2, 40):
            before, began = len(messages), time.monotonic()
            place.write(f"mark-{number}")
            is_quick = time.monotonic() - began < secretfiles.QUIET_S
            while marks(messages[-1]) != {f"mark-{number}"}:
                assert client.read_once(), "the server has closed the connection"
            if is_quick:  # a writer that takes longer may be seen half done
                assert len(messages) == before + 1
                return
        pytest.fail("they were never written at once")


def make_unreadable(path: Path) -> None:
    os.chown(path, 0, 0)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "no PEM": lambda path: path.write_bytes(bytes(1000)),
    "huge": lambda path: path.write_bytes(b"PRIVATE KEY-----" * 100_000),
    "unreadable": make_unreadable,
    "a FIFO": make_fifo,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_set_that_is_not_whole_changes_nothing(
    place: Place, start: Start, damage: Callable[[Path], None]
) -> None:
    place.write("mark-1")
    server = start()
    with subscribe(server) as client:
        wait_mark(client, "mark-1")
        damage(place.output / "key.pem")
        place.write("mark-2", None, "cert-chain.pem")
        server.wait_log("what was given out before stays")
        with subscribe(server) as another:
            wait_mark(another, "mark-1")
        shutil.rmtree(place.output)
        place.make_directory(place.output)
        place.write("mark-3")
        wait_mark(client, "mark-3")
        assert "mark-2" not in str(client.client.messages)


# -- who is let in -------------------------------------------------------------------------------

ASK = """if True:
    import socket, sys
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(25)
    client.connect(sys.argv[1])
    print(len(client.recv(9)))
"""


def test_only_root_and_the_proxy_are_let_in(place: Place, start: Start) -> None:
    place.swap("mark-1")
    server = start()
    status = server.path.stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o600, UID)
    assert "PermissionError" in lab.run_as(STRANGER, ASK, str(server.path)).stderr
    # The kernel says who it is, whoever has opened the socket or its directory to others.
    server.path.chmod(0o666)
    assert lab.run_as(STRANGER, ASK, str(server.path)).stdout == "0\n"
    assert f"of user {STRANGER}" in server.log()
    assert lab.run_as(UID, ASK, str(server.path)).stdout == "9\n"
    assert lab.run_as(0, ASK, str(server.path)).stdout == "9\n"


def test_root_does_not_serve(place: Place) -> None:
    path = place.base / "socket"
    argv = [lab.PYTHON, "-IS", str(lab.LAUNCH), "secrets", str(place.output), str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "not by root" in done.stderr
    assert not path.exists()


def test_nothing_of_the_process_can_be_read_by_others_of_its_user(
    place: Place, start: Start
) -> None:
    place.swap("mark-1")
    server = start()
    with subscribe(server) as client:
        wait_mark(client, "mark-1")
        assert server.core_limit() == ["0", "0"]
        done = lab.run_as(UID, f"open('/proc/{server.pid}/environ').read()")
        assert "PermissionError" in done.stderr
        assert "PRIVATE" not in server.log() + Path(f"/proc/{server.pid}/cmdline").read_text()
        server.kill(signal.SIGSEGV)
        assert not list(place.base.glob("core*"))


# -- what it survives ----------------------------------------------------------------------------


def test_a_hostile_client_ends_itself_alone(place: Place, start: Start) -> None:
    place.swap("mark-1")
    server = start()
    with subscribe(server) as client:
        wait_mark(client, "mark-1")
        for data in (b"GET / HTTP/1.1\r\n\r\n" + bytes(30), bytes(100_000)):
            with sds.Socket(server.path) as hostile:
                with contextlib.suppress(ConnectionError):  # it is gone already
                    hostile.send_raw(data)
                hostile.wait_closed()
        server.wait_log("client dropped: the client does not speak HTTP/2")
        place.swap("mark-2")
        wait_mark(client, "mark-2")


def test_a_client_that_does_not_read_holds_up_nobody_and_gets_the_newest(
    place: Place, start: Start
) -> None:
    place.swap("mark-0")
    server = start()
    with sds.Socket(server.path) as slow, subscribe(server) as client:
        slow.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream = slow.client.open()
        slow.client.send(stream, sds.request(*ALL))
        slow.flush()
        slow.raw.settimeout(1)
        ping = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)
        try:
            while True:  # until the server takes no more, since its answers are not read
                slow.send_raw(ping * 1000)
        except TimeoutError:
            pass
        before = server.rollup("Rss")
        for number in range(1, 6):
            place.swap(f"mark-{number}")
            wait_mark(client, f"mark-{number}")
        assert server.rollup("Rss") - before < 1000


def test_many_clients_are_bounded_and_one_that_asks_for_nothing_makes_room(
    place: Place, start: Start
) -> None:
    place.swap("mark-1")
    server = start()
    clients = [sds.Socket(server.path)]
    clients += [subscribe(server) for _ in range(secretserver.MAX_CLIENTS - 1)]
    try:
        for client in clients[1:]:
            wait_mark(client, "mark-1")
        with subscribe(server) as another:
            wait_mark(another, "mark-1")
            clients[0].wait_closed()
            with sds.Socket(server.path) as refused:
                refused.wait_closed()
            server.wait_log(f"{secretserver.MAX_CLIENTS} others are served")
            place.swap("mark-2")
            for client in (*clients[1:], another):
                wait_mark(client, "mark-2")
    finally:
        for client in clients:
            client.close()


def test_a_refusal_is_logged_once_with_its_reason(place: Place, start: Start) -> None:
    place.swap("mark-1")
    server = start()
    with subscribe(server) as client:
        response = wait_mark(client, "mark-1")
        for _ in range(3):
            nonce = sds.nonce_of(response)
            client.client.send(1, sds.request(*ALL, nonce=nonce, error="key values mismatch"))
        client.flush()
        place.swap("mark-2")
        wait_mark(client, "mark-2")
    assert server.log().count("refuses what it was sent: key values mismatch") == 1
    assert f"(process {os.getpid()})" in server.log()


def test_killed_and_started_anew_by_the_same_socket_it_goes_on(place: Place, start: Start) -> None:
    place.swap("mark-1")
    with lab.listen(place.base / "socket", UID) as listener:
        server = start(listener=listener)
        with subscribe(server) as client:
            wait_mark(client, "mark-1")
            server.kill()
            client.wait_closed()
        # Who connects while it is away waits for the next one.
        client = subscribe(server)
        place.swap("mark-2")
        start(listener=listener)
        with client:
            wait_mark(client, "mark-2")


def test_started_by_a_socket_it_ends_when_nobody_is_there(place: Place) -> None:
    place.swap("mark-1")
    path = place.base / "socket"
    with lab.listen(path, UID) as listener:
        files = secretfiles.SecretFiles(str(place.output))
        said: list[str] = []
        server = secretserver.SecretServer(listener, files, said.append, idle_s=0.2)
        running = threading.Thread(target=server.serve)
        with sds.Socket(path) as client:
            running.start()
            stream = client.client.open()
            client.client.send(stream, sds.request(*ALL))
            assert marks(client.wait_messages(stream, 1)[0]) == {"mark-1"}
            # Longer than that, while somebody is there.
            running.join(0.5)
            assert running.is_alive()
        running.join(60)
        assert not running.is_alive()


def test_memory_is_that_of_an_interpreter_and_stays_so(place: Place, start: Start) -> None:
    place.swap("mark-0")
    server = start()
    with subscribe(server) as client:
        wait_mark(client, "mark-0")
        before = server.rollup("Rss")
        # Debian 13's interpreter is larger by 2 MB; python3-h2 alone would be 3 MB more.
        assert before < 14_500
        for number in range(1, 301):
            place.swap(f"mark-{number}")
            wait_mark(client, f"mark-{number}")
            with subscribe(server) as another:
                wait_mark(another, f"mark-{number}")
        assert server.rollup("Rss") - before < 700


def test_it_sleeps_while_nothing_happens(place: Place, start: Start) -> None:
    place.swap("mark-1")
    server = start()

    def switches() -> str:
        lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        return next(line for line in lines if line.startswith("voluntary"))

    def is_quiet() -> bool:
        before = switches()
        threading.Event().wait(0.5)
        return switches() == before

    with subscribe(server) as client:
        wait_mark(client, "mark-1")
        # On a busy machine it may be put to sleep while it still works.
        eventually(is_quiet, "half a second in which it did not wake up")
