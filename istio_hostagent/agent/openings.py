"""Has a worker let captured connections past the host's firewall, where a key asks for that.

What is let in is what the firewall lets in without capture, and nothing of it is remembered here:
it is known by its name, and made right before packets are sent. Not here: when that is
(`redirection`), and which rules it takes (`redirect.openings`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import HostAgentError
from . import fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..config import model
    from ..host import ports
    from ..host.answers import openings as answers
    from ..redirect import expectations, firewall
    from . import tasks

logger = logging.getLogger(__name__)

WORKER = "openings"
# It runs a few programs, each of which waits for the lock of others for 5 s at most.
TIMEOUT_S = 12.0
# So often in one proof: what one chain lets in may be dropped by the next one.
MAX_ROUNDS = 5
DROPPED_BEFORE = "all that lets it in is said again, and it is dropped before it comes there"


class Openings:
    """What of ours is in the firewalls of one host."""

    def __init__(self, work: tasks.Tasks, present: ports.Openings) -> None:
        """Start with nothing known."""
        self._work = work
        self._present = present
        self._may_be_there = True  # an earlier agent may have left some
        self._then: Callable[[bool], None] | None = None
        self._rounds = 0
        self._is_asked = False  # to open something, and not to look alone
        self.opened: tuple[str, ...] = ()  # chains
        self.refused: tuple[str, ...] = ()  # what was not done, and why

    def refresh(self, settings: model.Redirection, then: Callable[[], None]) -> None:
        """Make right what is there already, before packets are sent; then call `then` once."""
        self._rounds = 0
        self.refused = ()
        if not settings.opens_firewall:
            self.take_out()
            then()
        elif self._is_any():
            self._start(settings, (), lambda _: then())
        else:
            self.opened = ()
            then()

    def open(
        self,
        settings: model.Redirection,
        findings: Iterable[expectations.Finding],
        then: Callable[[bool], None],
    ) -> bool:
        """Let in what packets have shown to be dropped once it is captured, if that may be done.

        `then` is told, once, whether anything has changed. False: there is nothing to do, and it
        is not called.
        """
        if not settings.opens_firewall or self._rounds >= MAX_ROUNDS:
            return False
        passages = {each.passage for each in findings if each.is_shut and each.passage is not None}
        if not passages:
            return False
        self._rounds += 1
        self._start(settings, sorted(passages), then)
        return True

    def take_out(self) -> None:
        """Take all of it out; what could not go is tried again with the next call."""
        is_working = self._then is not None
        if is_working:
            self._work.abandon(WORKER)
            self._answer(has_changed=False)  # whoever waits gets no other answer
        self.opened = ()
        if not self._may_be_there:
            return
        try:
            if self._present.take_out():
                logger.info("rules for captured connections are out of the firewall of this host")
            # What was killed at this moment may have been done all the same.
            self._may_be_there = is_working
        except HostAgentError as error:
            logger.warning("not taken out of the firewall of this host: %s", error)

    def _is_any(self) -> bool:
        try:
            return self._present.is_any()
        except HostAgentError as error:
            logger.debug("the firewall was not looked at: %s", error)
            return True  # the worker says what is wrong

    def _start(
        self,
        settings: model.Redirection,
        passages: Sequence[firewall.Passage],
        then: Callable[[bool], None],
    ) -> None:
        self._answer(has_changed=False)
        self._then = then
        self._is_asked = bool(passages)
        self._may_be_there = True
        captured = ((1, 65535),) if settings.inbound.is_all else settings.inbound.ranges
        request = {
            "at": settings.inbound_capture_port,
            "captured": sorted(captured),
            "passages": [each._asdict() for each in passages],
        }
        self._work.start_worker(WORKER, request, user=None, timeout_s=TIMEOUT_S, done=self._ended)

    def _ended(self, answer: answers.Answer | HostAgentError) -> None:
        if isinstance(answer, HostAgentError):
            self.refused = (answer.text,)
            self._answer(has_changed=False)
            return
        if answer.error is not None:
            self.refused = (answer.error.message,)
        else:
            self.refused = tuple(dict.fromkeys((*self.refused, *answer.refused)))
            self.opened = answer.opened
            if self._is_asked and not (answer.has_changed or self.refused):
                self.refused = (DROPPED_BEFORE,)
        if answer.has_changed:
            logger.info(
                "the firewall of this host lets in captured connections as it does others",
                extra=fields.of(DETAIL=list(answer.opened)),
            )
        self._answer(has_changed=answer.has_changed)

    def _answer(self, *, has_changed: bool) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(has_changed)
