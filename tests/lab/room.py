"""The agent's inbox and tasks without the agent: what happens is seen when a turn is taken."""

from collections.abc import Callable

from istio_hostagent.agent import events, tasks
from istio_hostagent.host import children, clock, mailbox

from .waiting import eventually

PATIENCE_S = 90.0


class Room:
    """Tasks of their own, which `work` starts; `changes` counts what was told of files."""

    def __init__(self) -> None:
        """Start with none."""
        self.inbox: mailbox.Mailbox[events.Event] = mailbox.Mailbox()
        processes = children.Processes(self.inbox, "/nowhere")
        self.work = tasks.Tasks(self.inbox, clock.SystemClock(), processes)
        self.changes = 0

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Take turns until the condition holds."""

        def holds() -> bool:
            for event in self.inbox.wait(0.0):
                if isinstance(event, events.TaskEnded):
                    self.work.ended(event.name)
                else:
                    assert isinstance(event, events.FilesChanged)
                    self.changes += 1
            self.work.tick()
            return condition()

        eventually(holds, what, within_s=PATIENCE_S)
