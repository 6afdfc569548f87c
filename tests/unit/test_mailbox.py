"""What the deciding thread waits at: descriptors, posts and time."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from istio_hostagent.host import mailbox
from istio_hostagent.host.mailbox import Mailbox


@pytest.fixture
def pipes() -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    with ExitStack() as stack:
        made = []
        for _ in range(2):
            ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            for end in ends:
                stack.callback(os.close, end)
            made.append(ends)
        yield made[0], made[1]


def test_what_a_descriptor_and_a_thread_say_arrives(
    pipes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    (read_end, write_end), _ = pipes
    inbox: Mailbox[str] = Mailbox()
    inbox.watch(read_end, lambda: os.read(read_end, 100).decode())
    os.write(write_end, b"read")
    inbox.post("posted")
    assert inbox.wait(None) == ["read", "posted"]
    assert inbox.wait(0.0) == []


def test_what_is_no_event_does_not_end_the_waiting(
    pipes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    (first, to_first), (second, to_second) = pipes
    inbox: Mailbox[str] = Mailbox()

    def chatter() -> None:
        os.write(to_second, os.read(first, 100))

    inbox.watch(first, chatter)
    inbox.watch(second, lambda: os.read(second, 100).decode())
    os.write(to_first, b"at last")
    assert inbox.wait(None) == ["at last"]


def test_chatter_without_end_does_not_hold_up_what_is_due(
    pipes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    (read_end, write_end), _ = pipes
    inbox: Mailbox[str] = Mailbox()
    os.write(write_end, b"never read")
    inbox.watch(read_end, lambda: None)
    assert inbox.wait(0.01) == []


def test_a_post_from_a_reader_is_no_reason_to_wait(
    pipes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    (read_end, write_end), _ = pipes
    inbox: Mailbox[str] = Mailbox()
    inbox.watch(read_end, lambda: inbox.post(os.read(read_end, 100).decode()))
    os.write(write_end, b"a signal")
    assert inbox.wait(None) == ["a signal"]


def test_a_reader_that_fails_loses_nothing_and_is_asked_again_later(
    pipes: tuple[tuple[int, int], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "MUTE_S", 600.0)
    (first, to_first), (second, to_second) = pipes
    inbox: Mailbox[str] = Mailbox()
    failures = []

    def fail() -> str:
        failures.append(1)
        raise ValueError("a bug")

    inbox.watch(first, lambda: os.read(first, 100).decode())
    inbox.watch(second, fail)
    os.write(to_first, b"kept")
    os.write(to_second, b"bad")
    with pytest.raises(ValueError, match="a bug"):
        inbox.wait(5.0)
    assert inbox.wait(0.1) == ["kept"]
    # Not a hot loop: what still is readable is not asked again and again.
    assert inbox.wait(0.1) == []
    assert len(failures) == 1
    inbox._muted[second] = 0.0  # its time is over
    with pytest.raises(ValueError, match="a bug"):
        inbox.wait(5.0)
    assert len(failures) == 2
