"""What the agent says never waits for who should hear it: the log and the service manager."""

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.host import errorstream, nftpresence, notify

LINE = "x" * 999 + "\n"


def read_all(descriptor: int) -> bytes:
    found = b""
    while select.select([descriptor], [], [], 0.0)[0] and (part := os.read(descriptor, 1 << 20)):
        found += part
    return found


class TestErrorStream:
    @pytest.fixture(params=["pipe", "journal"])
    def ends(self, request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
        """(who reads, who writes); the writing end blocks, as everybody's standard error does."""
        if request.param == "pipe":
            reads, writes = os.pipe()
        else:
            reads, writes = (each.detach() for each in socket.socketpair())
        yield reads, writes
        os.close(reads)
        os.close(writes)

    def test_lines_that_nobody_reads_are_left_out_and_counted(self, ends: tuple[int, int]) -> None:
        reads, writes = ends
        stream = errorstream.ErrorStream(writes)
        for _ in range(2000):
            stream.write(LINE)
        first = read_all(reads)
        stream.write("the last one\n")
        lines = (first + read_all(reads)).decode().splitlines()
        kept = lines.count(LINE.strip())
        assert 50 < kept < 2000
        assert lines[kept:] == [
            f"<4>{2000 - kept} lines are missing here: nobody read them",
            "the last one",
        ]
        assert os.get_blocking(writes), "children write there as well"
        stream.close()

    def test_nobody_there_is_no_error(self, ends: tuple[int, int]) -> None:
        reads, writes = ends
        stream = errorstream.ErrorStream(writes)
        nobody = os.open("/dev/null", os.O_RDONLY)
        os.dup2(nobody, reads)
        os.close(nobody)
        stream.write(LINE)
        stream.write(LINE)
        stream.close()


class TestNotifier:
    @pytest.fixture
    def manager(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as made:
            made.bind(str(tmp_path / "notify"))
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
            yield made

    def test_what_a_busy_manager_does_not_take_is_sent_again(self, manager: socket.socket) -> None:
        notifier = notify.Notifier(os.environ)
        sent = 0
        while sent < 10_000 and not notifier.is_behind:
            sent += 1
            notifier.send(STATUS=f"number {sent}")
        notifier.send(READY="1", STATUS="the last one")
        for number in range(1, sent):
            assert manager.recv(4096) == f"STATUS=number {number}".encode()
        notifier.flush()
        assert manager.recv(4096).split(b"\n") == [b"STATUS=the last one", b"READY=1"]
        notifier.close()

    def test_a_descriptor_that_nobody_took_is_an_error(self, manager: socket.socket) -> None:
        """The rules live as long as the manager has it: it must not be thought to."""
        notifier = notify.Notifier(os.environ)
        while not notifier.is_behind:
            notifier.send(STATUS="another")
        with pytest.raises(BlockingIOError):
            notifier.store("nft", manager.fileno())
        with contextlib.suppress(BlockingIOError):
            while manager.recv(4096):
                pass
        notifier.store("nft", manager.fileno())
        data, descriptors, _, _ = socket.recv_fds(manager, 4096, 1)
        assert data == b"FDSTORE=1\nFDNAME=nft\nFDPOLL=0"
        assert len(descriptors) == 1
        os.close(descriptors[0])
        manager.close()
        with pytest.raises(ConnectionRefusedError):
            notifier.store("nft", 0)
        notifier.close()

    def test_what_is_kept_no_longer_is_named(self, manager: socket.socket) -> None:
        notifier = notify.Notifier(os.environ)
        notifier.forget("port-15001-v4")
        assert manager.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=port-15001-v4"
        manager.close()
        notifier.forget("port-15001-v4")  # a manager that is away keeps nobody
        notifier.close()


TAKING = """
import os, sys
from istio_hostagent.host import notify
os.environ["LISTEN_PID"] = str(os.getpid())
found = notify.take_stored(os.environ)
print({name: made.getsockname()[1] for name, made in sorted(found.items())})
"""


def test_every_socket_that_was_kept_comes_back_by_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        ports = [each.getsockname()[1] for each in (one, two)]
        # Where systemd puts them: from 3 on. What is no socket is closed.
        moved = f'exec 3<&{one.fileno()} 4<&{two.fileno()} 5</dev/null; exec "$@"'
        done = subprocess.run(
            ["/bin/bash", "-c", moved, "sh", sys.executable, "-c", TAKING],
            env={"LISTEN_FDS": "3", "LISTEN_FDNAMES": "nft:port-15001-v4:other"},
            pass_fds=(one.fileno(), two.fileno()),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert done.stdout.strip() == str({"nft": ports[0], "port-15001-v4": ports[1]})


def test_of_two_sockets_of_one_name_only_one_stays_open() -> None:
    """Nobody would know of the other one, and its port would stay held for ever."""
    count = "print(sum(os.path.exists(f'/proc/self/fd/{number}') for number in (3, 4)))"
    with socket.create_server(("", 0)) as one, socket.create_server(("", 0)) as two:
        moved = f'exec 3<&{one.fileno()} 4<&{two.fileno()}; exec "$@"'
        done = subprocess.run(
            ["/bin/bash", "-c", moved, "sh", sys.executable, "-c", TAKING + count],
            env={"LISTEN_FDS": "2", "LISTEN_FDNAMES": "port-15001-v4:port-15001-v4"},
            pass_fds=(one.fileno(), two.fileno()),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert done.stdout.splitlines()[-1] == "1"


def test_what_is_kept_under_the_name_of_the_rules_and_is_no_netlink_is_left_alone() -> None:
    """It would end every start for as long as the service manager keeps it."""
    kept = socket.create_server(("127.0.0.1", 0))
    found, _ = nftpresence.open_socket(kept)
    assert kept.fileno() == -1
    if found is not None:  # without the right to ask there is none
        with found:
            assert found.family == socket.AF_NETLINK
