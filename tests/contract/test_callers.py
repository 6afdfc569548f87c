"""What is promised of somebody who asks for something: at a socket, and in memory."""

import json
import socket
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from istio_hostagent.host import control, ports
from tests.fakes.caller import FakeCaller


class Line(Protocol):
    """A caller, and what he gets."""

    @property
    def caller(self) -> ports.Caller: ...

    def got(self) -> list[dict[str, Any]]:
        """The answers until the line is closed."""

    def leave(self) -> None:
        """He waits no longer."""


class CallerContract:
    def test_what_he_asks_is_kept(self, line: Line) -> None:
        assert line.caller.request == {"verb": "status"}

    def test_he_gets_one_answer_whole(self, line: Line) -> None:
        answer = {"ok": True, "lines": ["ä\n", "two"]}
        line.caller.answer(answer)
        assert line.got() == [answer]

    def test_who_is_hung_up_on_gets_none(self, line: Line) -> None:
        line.caller.hang_up()
        assert line.got() == []

    def test_one_who_has_gone_away_is_no_error(self, line: Line) -> None:
        line.leave()
        line.caller.answer({"ok": True})


class RealLine:
    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        ours.setblocking(False)
        self.caller = control.Caller(ours, {"verb": "status"})

    def got(self) -> list[dict[str, Any]]:
        with self._theirs.makefile("rb") as lines:
            return [json.loads(line) for line in lines]

    def leave(self) -> None:
        self._theirs.close()


class FakeLine:
    def __init__(self) -> None:
        self.caller = FakeCaller("status")

    def got(self) -> list[dict[str, Any]]:
        assert not self.caller.is_open
        return self.caller.answers

    def leave(self) -> None:
        self.caller.is_gone = True


class TestCaller(CallerContract):
    @pytest.fixture
    def line(self) -> Iterator[Line]:
        made = RealLine()
        yield made
        made.leave()
        made.caller.hang_up()


class TestFakeCaller(CallerContract):
    @pytest.fixture
    def line(self) -> Line:
        return FakeLine()
