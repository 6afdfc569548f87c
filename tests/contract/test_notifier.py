"""What is promised of the line to the service manager: to a socket, and in memory."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from istio_hostagent.host import notify, ports
from tests.fakes.clock import FakeClock
from tests.fakes.notifier import FakeNotifier


class Manager(Protocol):
    """A service manager, and the line to it."""

    @property
    def notifier(self) -> ports.Notifier: ...

    def said(self) -> dict[str, str]:
        """Everything that it was told."""

    def kept(self) -> dict[str, int]:
        """The inodes of the descriptors that it keeps, by name."""

    def go(self) -> None:
        """It is not there any more."""


class NotifierContract:
    def test_what_is_sent_is_told(self, manager: Manager) -> None:
        manager.notifier.send(READY="1", STATUS="one")
        manager.notifier.send(STATUS="two")
        assert manager.said() == {"READY": "1", "STATUS": "two"}
        assert not manager.notifier.is_behind

    def test_a_value_is_one_line(self, manager: Manager) -> None:
        manager.notifier.send(STATUS="one\nREADY=1")
        assert manager.said() == {"STATUS": "one READY=1"}

    def test_what_is_stored_is_kept_by_its_name(self, manager: Manager, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        descriptor = os.open(tmp_path / "file", os.O_RDONLY)
        manager.notifier.store("nft", descriptor)
        assert manager.kept() == {"nft": os.fstat(descriptor).st_ino}
        os.close(descriptor)

    def test_who_stores_learns_that_nobody_takes_it(self, manager: Manager) -> None:
        manager.go()
        with pytest.raises(OSError):
            manager.notifier.store("nft", 0)
        assert manager.kept() == {}

    def test_one_who_is_not_there_keeps_nobody_waiting(self, manager: Manager) -> None:
        manager.go()
        manager.notifier.send(STATUS="one")
        manager.notifier.flush()
        assert not manager.notifier.is_behind


class RealManager:
    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.notifier = notify.Notifier(os.environ)
        self._said: dict[str, str] = {}
        self._kept: dict[str, int] = {}

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                text, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 10)
                fields = dict(line.split("=", 1) for line in text.decode().splitlines())
                for descriptor in descriptors:
                    self._kept[fields["FDNAME"]] = os.fstat(descriptor).st_ino
                    os.close(descriptor)
                if not descriptors:
                    self._said |= fields

    def said(self) -> dict[str, str]:
        self._read()
        return self._said

    def kept(self) -> dict[str, int]:
        self._read()
        return self._kept

    def go(self) -> None:
        self._socket.close()


class FakeManager:
    def __init__(self) -> None:
        self._stored: dict[str, int] = {}
        self.notifier = FakeNotifier(self._stored, FakeClock())

    def said(self) -> dict[str, str]:
        return self.notifier.said

    def kept(self) -> dict[str, int]:
        return {name: os.fstat(each).st_ino for name, each in self._stored.items()}

    def go(self) -> None:
        self.notifier.is_away = True


class TestNotifier(NotifierContract):
    @pytest.fixture
    def manager(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        made = RealManager(tmp_path / "notify")
        yield made
        made.go()
        made.notifier.close()


class TestFakeNotifier(NotifierContract):
    @pytest.fixture
    def manager(self) -> Manager:
        return FakeManager()


@pytest.mark.parametrize(("started", "is_told"), [("own", True), ("other", False)])
def test_what_somebody_else_was_told_by_a_manager_is_not_for_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: str, is_told: bool
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("FDSTORE", "8")
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid() if started == "own" else os.getppid()))
    manager = RealManager(tmp_path / "notify")
    manager.notifier.send(READY="1")
    assert manager.said() == ({"READY": "1"} if is_told else {})
    assert notify.has_store(os.environ) == is_told
    manager.go()
    manager.notifier.close()
