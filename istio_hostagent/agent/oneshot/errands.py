"""Workers and probe packets of one verb, and the wait for what they bring.

A verb has no loop: it starts what it needs, waits until that is over, and ends.
"""

from collections.abc import Callable

from ...host import children, clock, mailbox, ports
from .. import events, prober, tasks

# Nothing is late by more than that, whatever is not told.
_LOOK_S = 1.0


class Errands:
    """What is under way for one verb."""

    def __init__(self, sender: ports.Packets) -> None:
        """Start nothing. `sender` sends the packets, and stays the caller's to be closed."""
        self._inbox: mailbox.Mailbox[events.Event] = mailbox.Mailbox()
        self._time = clock.SystemClock()
        self.work = tasks.Tasks(
            self._inbox, self._time, children.Processes(self._inbox, record="")
        )
        self.packets = prober.Prober(self.work, self._time, sender)

    def wait(self, is_over: Callable[[], object]) -> None:
        """Let everything happen until that is so; then nothing is under way any more."""
        while not is_over():
            soon = self._time.monotonic() + _LOOK_S
            due_at = min(at for at in (soon, self.packets.deadline()) if at is not None)
            for event in self._inbox.wait(max(due_at - self._time.monotonic(), 0.0)):
                if isinstance(event, events.TaskEnded):
                    self.work.ended(event.name)
            self.work.tick()
            self.packets.tick()
        self.work.cancel()
