"""Loopback ports that answer as they are told."""

from collections.abc import Callable, Iterable

from istio_hostagent.supervise.liveness import Answer, Door
from tests.fakes.clock import FakeClock
from tests.fakes.inbox import FakeInbox, new_descriptor

ANSWER_S = 0.001


class FakeDoors:
    """`behind` says what comes of a question at a door; all but REFUSED takes a moment."""

    def __init__(
        self, inbox: FakeInbox, clock: FakeClock, behind: Callable[[Door], Answer]
    ) -> None:
        self._inbox = inbox
        self._clock = clock
        self._behind = behind
        self._open: set[Door] = set()
        self._answers: dict[Door, Answer] = {}
        self._round = new_descriptor()

    @property
    def is_answered(self) -> bool:
        return not self._open

    def ask(self, doors: Iterable[Door], answered: Callable[[], object] | None = None) -> None:
        self.close()
        for door in doors:
            found = self._behind(door)
            if found is Answer.REFUSED:
                self._answers[door] = found
                continue
            self._open.add(door)
            if found is not Answer.SILENT:
                self._clock.later(ANSWER_S, self._answering(self._round, door, found))
        if answered is not None and self._open:
            self._inbox.watch(self._round, self._reader(answered))

    def _answering(self, asked: int, door: Door, answer: Answer) -> Callable[[], None]:
        def act() -> None:
            if asked == self._round:
                self._answers[door] = answer
                self._open.discard(door)
                if not self._open:
                    self._inbox.ready(asked)

        return act

    def _reader(self, answered: Callable[[], object]) -> Callable[[], object]:
        def read() -> object:
            self._inbox.forget(self._round)
            return answered()

        return read

    def look(self) -> dict[Door, Answer]:
        return self._answers | dict.fromkeys(self._open, Answer.SILENT)

    def text(self, door: Door) -> bytes:
        return b""

    def read(self) -> dict[Door, Answer]:
        answers = self.look()
        self.close()
        return answers

    def close(self) -> None:
        self._inbox.forget(self._round)
        self._inbox.quiet(self._round)
        self._open, self._answers = set(), {}
        self._round = new_descriptor()
