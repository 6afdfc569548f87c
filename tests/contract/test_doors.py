"""What is promised of questions to loopback ports: real servers, and answers in memory."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from istio_hostagent.host import doors, mailbox, ports
from istio_hostagent.supervise.liveness import Answer, Door
from tests.fakes.clock import FakeClock
from tests.fakes.doors import FakeDoors
from tests.fakes.inbox import FakeInbox

PATIENCE_S = 60.0


class Host(Protocol):
    @property
    def inbox(self) -> ports.Inbox[Any]: ...

    @property
    def doors(self) -> ports.Doors: ...

    def door(self, answer: Answer) -> Door: ...


def await_answer(host: Host, door: Door) -> None:
    """Return once it has answered; nobody is woken meanwhile."""
    for _ in range(600):
        assert host.inbox.wait(0.1) == []
        if host.doors.look()[door] is Answer.READY:
            return
    raise AssertionError("no answer")


class DoorsContract:
    def test_a_port_without_anybody_refuses_at_once(self, host: Host) -> None:
        door = host.door(Answer.REFUSED)
        host.doors.ask([door], lambda: "answered")
        assert host.doors.is_answered
        assert host.doors.read() == {door: Answer.REFUSED}

    def test_when_all_have_answered_that_is_an_event(self, host: Host) -> None:
        ready, no = host.door(Answer.READY), host.door(Answer.UNREADY)
        host.doors.ask([ready, no], lambda: "answered")
        assert host.inbox.wait(PATIENCE_S) == ["answered"]
        assert host.doors.is_answered
        assert host.doors.look() == {ready: Answer.READY, no: Answer.UNREADY}
        assert host.doors.read() == {ready: Answer.READY, no: Answer.UNREADY}
        assert host.inbox.wait(0.02) == []

    def test_one_that_says_nothing_is_silent_and_wakes_nobody(self, host: Host) -> None:
        ready, silent = host.door(Answer.READY), host.door(Answer.SILENT)
        host.doors.ask([ready, silent], lambda: "answered")
        await_answer(host, ready)
        assert not host.doors.is_answered
        assert host.doors.read() == {ready: Answer.READY, silent: Answer.SILENT}

    def test_without_anybody_to_call_the_answers_lie_there(self, host: Host) -> None:
        ready = host.door(Answer.READY)
        host.doors.ask([ready])
        await_answer(host, ready)
        assert host.doors.read() == {ready: Answer.READY}

    def test_a_round_that_is_dropped_tells_nothing(self, host: Host) -> None:
        host.doors.ask([host.door(Answer.READY)], lambda: "dropped")
        host.doors.close()
        assert host.inbox.wait(0.1) == []
        other = host.door(Answer.UNREADY)
        host.doors.ask([host.door(Answer.READY)], lambda: "first")
        host.doors.ask([other], lambda: "second")
        assert host.inbox.wait(PATIENCE_S) == ["second"]
        assert host.doors.read() == {other: Answer.UNREADY}


_WORDS = {Answer.READY: b"HTTP/1.1 200 OK\r\n\r\n", Answer.UNREADY: b"HTTP/1.1 503 No\r\n\r\n"}


class RealHost:
    def __init__(self, held: contextlib.ExitStack) -> None:
        self.inbox: mailbox.Mailbox[Any] = mailbox.Mailbox()
        self.doors = doors.Doors(self.inbox)
        self._held = held

    def door(self, answer: Answer) -> Door:
        listener = self._held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if answer is not Answer.REFUSED:  # bound, and nobody listens
            listener.listen()
        if answer in _WORDS:
            threading.Thread(target=_serve, args=(listener, _WORDS[answer]), daemon=True).start()
        return Door("process", port, "/ready")


def _serve(listener: socket.socket, words: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(words)


class FakeHost:
    def __init__(self) -> None:
        clock = FakeClock()
        self.inbox = FakeInbox(clock)
        self._answers: dict[Door, Answer] = {}
        self.doors = FakeDoors(self.inbox, clock, self._answers.__getitem__)

    def door(self, answer: Answer) -> Door:
        made = Door("process", 1000 + len(self._answers), "/ready")
        self._answers[made] = answer
        return made


class TestDoors(DoorsContract):
    @pytest.fixture
    def host(self) -> Iterator[Host]:
        with contextlib.ExitStack() as held:
            made = RealHost(held)
            yield made
            made.doors.close()


class TestFakeDoors(DoorsContract):
    @pytest.fixture
    def host(self) -> Host:
        return FakeHost()
