"""What every inbox promises: the real one on descriptors, and the one on which time passes at once."""

import os
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from istio_hostagent.host import mailbox, ports
from tests.fakes.clock import FakeClock
from tests.fakes.inbox import FakeInbox, new_descriptor

SHORT_S = 0.02


class Host(Protocol):
    """An inbox and one thing that can be readable."""

    @property
    def inbox(self) -> ports.Inbox[Any]: ...

    @property
    def descriptor(self) -> int: ...

    def ready(self) -> None: ...

    def quiet(self) -> None: ...


class InboxContract:
    def test_what_is_readable_is_read_and_told(self, host: Host) -> None:
        def read() -> str:
            host.quiet()
            return "read"

        host.inbox.watch(host.descriptor, read)
        assert host.inbox.wait(SHORT_S) == []
        host.ready()
        assert host.inbox.wait(None) == ["read"]
        assert host.inbox.wait(SHORT_S) == []

    def test_what_is_not_taken_away_is_told_again(self, host: Host) -> None:
        host.inbox.watch(host.descriptor, lambda: "still")
        host.ready()
        assert host.inbox.wait(None) == ["still"]
        assert host.inbox.wait(None) == ["still"]

    def test_what_was_readable_before_it_is_watched_counts(self, host: Host) -> None:
        host.ready()
        host.inbox.watch(host.descriptor, lambda: "before")
        assert host.inbox.wait(None) == ["before"]

    def test_what_is_forgotten_is_not_read(self, host: Host) -> None:
        host.inbox.watch(host.descriptor, lambda: "never")
        host.ready()
        host.inbox.forget(host.descriptor)
        host.inbox.forget(host.descriptor)
        assert host.inbox.wait(SHORT_S) == []

    def test_a_reader_may_forget_its_own_descriptor(self, host: Host) -> None:
        def read() -> str:
            host.inbox.forget(host.descriptor)
            return "once"

        host.inbox.watch(host.descriptor, read)
        host.ready()
        assert host.inbox.wait(None) == ["once"]
        assert host.inbox.wait(SHORT_S) == []

    def test_what_is_no_event_does_not_end_the_waiting(self, host: Host) -> None:
        def read() -> None:
            host.quiet()
            host.inbox.post("posted")

        host.inbox.watch(host.descriptor, read)
        host.ready()
        assert host.inbox.wait(None) == ["posted"]

    def test_a_descriptor_is_watched_once(self, host: Host) -> None:
        host.inbox.watch(host.descriptor, lambda: None)
        with pytest.raises((OSError, AssertionError)):
            host.inbox.watch(host.descriptor, lambda: None)

    def test_what_is_posted_comes_in_order(self, host: Host) -> None:
        host.inbox.post(1)
        host.inbox.post(2)
        assert host.inbox.wait(None) == [1, 2]


class RealHost:
    def __init__(self) -> None:
        self.inbox: mailbox.Mailbox[Any] = mailbox.Mailbox()
        self.descriptor, self._other = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def ready(self) -> None:
        os.write(self._other, b".")

    def quiet(self) -> None:
        os.read(self.descriptor, 10)

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self._other)


class FakeHost:
    def __init__(self) -> None:
        self.inbox = FakeInbox(FakeClock())
        self.descriptor = new_descriptor()

    def ready(self) -> None:
        self.inbox.ready(self.descriptor)

    def quiet(self) -> None:
        self.inbox.quiet(self.descriptor)


class TestMailbox(InboxContract):
    @pytest.fixture
    def host(self) -> Iterator[Host]:
        made = RealHost()
        yield made
        made.close()


class TestFakeInbox(InboxContract):
    @pytest.fixture
    def host(self) -> Host:
        return FakeHost()
