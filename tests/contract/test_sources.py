"""What is promised of whoever tells of changes: of two kernel sockets, and of the one in memory."""

import contextlib
import select
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from istio_hostagent.host import changes, ports, rtmonitor
from tests.fakes.clock import FakeClock
from tests.fakes.inbox import FakeInbox, FakeSource
from tests.lab import layers, netns


class Host(NamedTuple):
    source: ports.Source[Any]
    change: Callable[[], object]  # somebody changes something; it is told when this returns
    is_readable: Callable[[], bool]


class SourceContract:
    def test_nothing_is_told_where_nothing_happens(self, host: Host) -> None:
        assert not host.is_readable()
        assert not host.source.read()

    def test_a_change_is_told_once(self, host: Host) -> None:
        host.change()
        assert host.is_readable()
        assert _everything(host)
        assert not host.is_readable()
        assert not host.source.read()

    def test_what_comes_while_nobody_reads_is_not_lost(self, host: Host) -> None:
        host.change()
        host.change()
        assert _everything(host)
        host.change()
        assert _everything(host)


def _everything(host: Host) -> list[Any]:
    """All that has been told: one reading may take only a part, or nothing that matters."""
    told = []
    while host.is_readable():
        found = host.source.read()
        if found:
            told.append(found)
    return told


def _is_readable(source: ports.Source[Any]) -> bool:
    return bool(select.select([source.fileno()], [], [], 0)[0])


# Each of the two, with how to add something and how to take it away.
MONITORS: dict[str, tuple[Callable[[], Any], tuple[str, str]]] = {
    "changes": (changes.ChangeMonitor, ("nft add table ip x", "nft delete table ip x")),
    "network": (
        rtmonitor.Monitor,
        ("ip address add 10.9.0.1/32 dev lo", "ip address del 10.9.0.1/32 dev lo"),
    ),
}


@pytest.mark.netns
class TestMonitors(SourceContract):
    @pytest.fixture(params=MONITORS)
    def host(self, request: pytest.FixtureRequest) -> Iterator[Host]:
        layers.require_namespaces()
        make, commands = MONITORS[request.param]
        with (
            netns.Namespace(request.param) as space,
            contextlib.closing(space.inside(make)) as made,
        ):
            yield Host(made, _flipping(space, commands), lambda: _is_readable(made))


def _flipping(space: netns.Namespace, commands: Sequence[str]) -> Callable[[], None]:
    """Adds something, and takes it away the next time."""
    is_there = False

    def change() -> None:
        nonlocal is_there
        space.run(commands[is_there].split(), check=True)
        is_there = not is_there

    return change


class TestFakeSource(SourceContract):
    @pytest.fixture
    def host(self) -> Host:
        inbox = FakeInbox(FakeClock())
        made: FakeSource[tuple[str, ...]] = FakeSource(inbox, lambda told: sum(told, ()))
        return Host(made, lambda: made.tell(("change",)), lambda: inbox.is_readable(made.fileno()))
