"""Asks loopback ports whether the processes behind them live, without ever waiting for them.

Of an answer the first bytes are looked at; where a door is asked for more, so many bytes are
kept. What the answers mean is not known here (`supervise.liveness`, `supervise.controlplane`).
"""

import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any

from ..supervise.liveness import Answer, Door
from . import mailbox

_MAX_STATUS = 64
_GOOD = (b"HTTP/1.1 200", b"HTTP/1.0 200")
_PENDING = (errno.EINPROGRESS, errno.EAGAIN)


class Doors:
    """One round of questions at a time."""

    def __init__(self, inbox: mailbox.Mailbox[Any]) -> None:
        """Start with no question open."""
        self._inbox = inbox
        self._open: dict[Door, socket.socket] = {}
        self._unsent: set[Door] = set()
        self._answers: dict[Door, Answer] = {}
        self._texts: dict[Door, bytes] = {}

    def ask(self, doors: Iterable[Door], answered: Callable[[], object] | None = None) -> None:
        """Begin a round; one that was open is dropped.

        `answered` is called when all have answered, and its result is an event; without it
        nobody is woken, and the answers lie there until `read`.
        """
        self.close()
        self._texts = {}
        for door in doors:
            # Not create_connection: it asks the resolver, which loads tables for ever.
            made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._open[door] = made
            number = made.connect_ex(("127.0.0.1", door.port))
            if number and number not in _PENDING:
                self._settle(door, Answer.REFUSED)
                continue
            self._unsent.add(door)
            self._send(door)
            if door in self._open and answered is not None:
                self._watch(door, answered)

    def _watch(self, door: Door, answered: Callable[[], object]) -> None:
        def read() -> object | None:
            self._receive(door)
            return None if self._open else answered()

        self._inbox.watch(self._open[door].fileno(), read)

    @property
    def is_answered(self) -> bool:
        """Whether every question of the round has its answer."""
        return not self._open

    def look(self) -> dict[Door, Answer]:
        """What has been answered until now; SILENT for the rest, whose questions stay open."""
        for door in list(self._open):
            self._receive(door)
        unfinished = {door: self._classify(door) for door in self._open if door in self._texts}
        return dict.fromkeys(self._open, Answer.SILENT) | self._answers | unfinished

    def read(self) -> dict[Door, Answer]:
        """End the round: as `look`, and nothing stays open."""
        answers = self.look()
        self.close()
        return answers

    def text(self, door: Door) -> bytes:
        """What came from a door in the last round, as far as it is of interest."""
        return self._texts.get(door, b"")

    def close(self) -> None:
        """Drop what is open."""
        for made in self._open.values():
            self._inbox.forget(made.fileno())
            made.close()
        self._open, self._unsent, self._answers = {}, set(), {}

    def _send(self, door: Door) -> None:
        if door not in self._unsent:
            return
        request = f"GET {door.path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        try:
            self._open[door].send(request.encode())
        except BlockingIOError:
            return  # not connected yet: its queue of connections is full
        except OSError:
            self._settle(door, Answer.REFUSED)
            return
        self._unsent.discard(door)

    def _receive(self, door: Door) -> None:
        self._send(door)
        if door not in self._open:
            return
        limit = max(door.max_text, _MAX_STATUS)
        while door in self._open:
            text = self._texts.get(door, b"")
            try:
                data = self._open[door].recv(limit - len(text))
            except BlockingIOError:
                return
            except OSError:
                if not text:
                    self._settle(door, Answer.REFUSED)
                    return
                data = b""
            self._texts[door] = text + data
            if not data or len(text + data) >= door.max_text:
                self._settle(door, self._classify(door))

    def _classify(self, door: Door) -> Answer:
        return Answer.READY if self._texts[door].startswith(_GOOD) else Answer.UNREADY

    def _settle(self, door: Door, answer: Answer) -> None:
        made = self._open.pop(door)
        self._inbox.forget(made.fileno())
        made.close()
        self._unsent.discard(door)
        self._answers[door] = answer
