"""The environment files, read without waiting for them.

One reading at a time: whoever asks while one is under way gets the next one, so that nobody is
given what was read before he asked. Not here: what the texts mean, and what becomes of them.
"""

from collections.abc import Callable, Sequence

from ..errors import HostAgentError, Problem
from ..host import layers, ports, processes
from ..host.answers import reader as answers
from . import tasks

WORKER = "reader"
TIMEOUT_S = 5.0
# A problem: nothing was read. That says nothing about the files, and may pass.
Taken = Callable[[layers.Found | Problem], None]


class Reading:
    """Reads the same files again and again."""

    def __init__(
        self,
        work: tasks.Tasks,
        disk: ports.EnvironmentFiles,
        paths: Sequence[str],
        user: processes.User,
        *,
        name: str,
    ) -> None:
        """`user` reads what others than root can change; the task is called `name`."""
        self._work = work
        self._disk = disk
        self._paths = paths
        self._user = user
        self._name = name
        self._waiting: list[Taken] = []
        self._getting: list[Taken] = []

    def ask(self, taken: Taken) -> None:
        """`taken` gets the first reading that begins from now on, once however often it asks."""
        if taken not in self._waiting:
            self._waiting.append(taken)
        if not self._getting:
            self._begin()

    def _begin(self) -> None:
        self._getting, self._waiting = self._waiting, []
        begun = self._disk.begin(self._paths, self._user)
        if not begun.foreign:
            self._end(begun, ())
            return
        self._work.start_worker(
            WORKER,
            begun.request,
            name=self._name,
            user=self._user,
            timeout_s=TIMEOUT_S,
            done=lambda answer: self._end(begun, answer),
        )

    def _end(
        self, begun: layers.Begun, answer: tuple[answers.FileRead, ...] | HostAgentError
    ) -> None:
        if isinstance(answer, HostAgentError):
            # Which of them made it fail is not known.
            which = "" if len(begun.foreign) == 1 else ", or another file that others may change"
            message = f"cannot be read{which}: {answer.text}; retried automatically"
            found: layers.Found | Problem = Problem(next(iter(begun.foreign)), 0, message)
        else:
            found = begun.end(answer)
        getting, self._getting = self._getting, []
        for taken in getting:
            taken(found)
        if self._waiting and not self._getting:
            self._begin()
