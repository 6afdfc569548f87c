"""What is done as istio-proxy for an Envoy that takes over from another (hot restart).

Not here: when one may take over, and what becomes of it (`supervise.child`).
"""

import logging
from collections.abc import Callable

from ..errors import HostAgentError
from ..host import processes
from ..host.answers import hotrestart
from ..supervise import specs
from . import fields, tasks

logger = logging.getLogger(__name__)

WORKER = "hotrestart"
AWAIT = f"{WORKER} await"
# So long one worker asks; then another one does. Where only the state of things is asked for, one
# that has taken over says so at once.
WATCH_S, LOOK_S = 20.0, 0.5
TIMEOUT_S = 15.0


class Succession:
    """Asks workers, one of each kind at a time."""

    def __init__(self, work: tasks.Tasks) -> None:
        """Nothing is asked yet."""
        self._work = work

    def watch(
        self, spec: specs.ProcessSpec, within_s: float, done: Callable[[bool], None]
    ) -> None:
        """Hear whether the Envoy that was launched so serves by then."""

        def answered(answer: hotrestart.HotRestart | HostAgentError) -> None:
            done(not isinstance(answer, HostAgentError) and answer.is_ready)

        request = {"socket": spec.admin.socket, "epoch": spec.epoch, "within_s": within_s}
        self._start("await", spec, request, within_s + TIMEOUT_S, answered)

    def forget(self) -> None:
        """Nobody is interested in the Envoy that was watched any more."""
        self._work.abandon(AWAIT)

    def unmark(self, spec: specs.ProcessSpec, done: Callable[[], None]) -> None:
        """Let another one take over although one has ended on the way, and hear that it may."""

        def answered(answer: hotrestart.HotRestart | HostAgentError) -> None:
            error = answer if isinstance(answer, HostAgentError) else answer.error
            if error is not None:
                text = error.text if isinstance(error, HostAgentError) else error.message
                logger.warning(
                    "Envoy may not be able to take over from another",
                    extra=fields.of(DETAIL=text),
                )
            done()

        self._start("unmark", spec, {"base_id": spec.base_id}, TIMEOUT_S, answered)

    def compare(
        self, task: str, running: specs.ProcessSpec, program: str, done: Callable[[str], None]
    ) -> None:
        """Hear why a program cannot take over from the Envoy that runs; empty: it can.

        `task`: for whom; of each, one at a time.
        """

        def answered(answer: hotrestart.HotRestart | HostAgentError) -> None:
            if isinstance(answer, HostAgentError):
                done(answer.text)
            elif answer.error is not None:
                done(answer.error.message)
            elif answer.running != answer.offered:
                done(f"its hot restart is {answer.offered}, that of what runs {answer.running}")
            else:
                done("")

        request: dict[str, object] = {"socket": running.admin.socket, "program": program}
        self._start("compare", running, request, TIMEOUT_S, answered, name=_comparison(task))

    def forget_comparison(self, task: str) -> None:
        """Nobody is interested in that any more."""
        self._work.abandon(_comparison(task))

    def _start(
        self,
        task: str,
        spec: specs.ProcessSpec,
        request: dict[str, object],
        timeout_s: float,
        done: Callable[[hotrestart.HotRestart | HostAgentError], None],
        name: str = "",
    ) -> None:
        self._work.start_worker(
            WORKER,
            {"task": task, **request},
            user=processes.User(spec.user_uid, spec.user_gid),
            timeout_s=timeout_s,
            done=done,
            name=name or f"{WORKER} {task}",
        )


def _comparison(task: str) -> str:
    return f"{WORKER} compare {task}"
