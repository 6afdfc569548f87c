"""The leaving part of the agent: what comes between SIGTERM and the way out.

A stop (its own job in systemd is `stop`) takes the host out of the mesh: the proxy says that it is
not ready, so that others send no more; after a while the rules go, and then the proxy. A restart,
an upgrade and a kill leave the host in, and nobody is to wait for them. At shutdown it drains as
well, and the rules stay. Without a service manager SIGTERM is a stop, and SIGINT one that is in a
hurry. What the unit of another name is told is done at once: it may be a restart.
"""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

from ..errors import HostAgentError, describe
from ..host import processes
from ..supervise import child
from . import events, fields, part

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..config import model
    from ..host import ports
    from ..lifecycle.life import Life
    from . import proxy, tasks

logger = logging.getLogger(__name__)

JOBS = "jobs"
WORKER = "drain"
TIMEOUT_S = 4.0
# Beside draining: to take the rules out, and the end of the proxy.
WAY_OUT_S = 30.0
_LIST_JOBS = ("/usr/bin/systemctl", "list-jobs", "--plain", "--no-legend", "--full")
_ROOT = processes.User(0, 0)
_DOWN = "shutdown.target"


class LeavingPart(part.Part):
    """Told to stop, finds out what is meant, and drains."""

    def __init__(
        self,
        unit: str,
        work: tasks.Tasks,
        clock: ports.Clock,
        notifier: ports.Notifier,
        proxy_part: proxy.ProxyPart,
        user: processes.User,
        rules: ports.PacketRules,
        on_drain: Callable[[], None],
    ) -> None:
        """`unit`: which unit of systemd this is, or nothing; `user`: whom the proxy lets in.

        `on_drain`: told when draining begins.
        """
        self._unit = unit
        self._work = work
        self._clock = clock
        self._notifier = notifier
        self._proxy = proxy_part
        self._user = user
        self._rules = rules
        self._on_drain = on_drain
        self._drain_s = 0.0
        self._is_told = False
        self._until_at: float | None = None
        self.is_over = False
        self.is_for_good = False
        self.is_restart = False

    def configure(self, config: model.Config, _facts: model.HostFacts) -> None:
        """Take how long it drains."""
        self._drain_s = config.proxy.drain_s

    def handle(self, event: events.Event) -> None:
        """Be told to stop; who says it twice is in a hurry."""
        match event:
            case events.Signalled(signal.SIGTERM | signal.SIGINT as number):
                is_alone = not (self._unit or self._rules.is_owner)
                if self._unit and not self._is_told:
                    self._ask()
                elif is_alone and number == signal.SIGTERM and not self._is_told:
                    self.is_for_good = True
                    self._drain()
                else:
                    self.is_over = True
            case events.TimePassed():
                if self._until_at is not None and self._clock.monotonic() >= self._until_at:
                    self.is_over = True

    def deadline(self) -> float | None:
        """When it has drained (monotonic seconds)."""
        return self._until_at

    def obstacle(self, _life: Life) -> str:
        """That it leaves."""
        return "told to stop; connections are drained first" if self._until_at is not None else ""

    def code(self, _life: Life) -> str:
        """It was told to."""
        return "leaving"

    def _ask(self) -> None:
        self._is_told = True
        try:
            self._work.start_program(
                JOBS, _LIST_JOBS, user=_ROOT, timeout_s=TIMEOUT_S, done=self._answered
            )
        except OSError as error:
            self._unknown(describe(error))

    def _unknown(self, why: str) -> None:
        """A restart is done at once; so is what may be one."""
        extra = fields.of(DETAIL=why)
        logger.warning("told to end, and systemd does not say for what: no draining", extra=extra)
        self.is_over = True

    def _answered(self, answer: Any) -> None:
        if isinstance(answer, HostAgentError):
            self._unknown(answer.text)
            return
        text = answer[1].decode(errors="replace")
        if answer[0] != 0:
            self._unknown(processes.ended_badly(_LIST_JOBS[0], answer[0], text.splitlines()).text)
            return
        jobs = {(words[1], words[2]) for words in map(str.split, text.splitlines()) if words[2:]}
        is_stop = (self._unit, "stop") in jobs
        self.is_for_good = is_stop and (_DOWN, "start") not in jobs
        self.is_restart = (self._unit, "restart") in jobs
        if is_stop:
            self._drain()
        else:
            self.is_over = True

    def _drain(self) -> None:
        """Have a proxy that serves say that it is not ready, and give its clients time to hear."""
        self._is_told = True
        supervised = self._proxy.child
        served = supervised.serving
        is_ready = supervised.state is child.State.READY or supervised.child.is_handing_over
        if not (is_ready and self._drain_s) or served is None:
            self.is_over = True
            return
        self._until_at = self._clock.monotonic() + self._drain_s
        self._notifier.send(
            STOPPING="1", EXTEND_TIMEOUT_USEC=str(int((self._drain_s + WAY_OUT_S) * 1e6))
        )
        logger.info("leaving; connections are drained", extra=fields.of(SECONDS=self._drain_s))
        self._on_drain()
        admin = served.spec.admin
        self._work.start_worker(
            WORKER,
            {"socket": admin.socket, "port": admin.port},
            user=self._user,
            timeout_s=TIMEOUT_S,
            done=self._drains,
        )

    def _drains(self, answer: Any) -> None:
        if answer is not None:
            text = answer.text if isinstance(answer, HostAgentError) else answer.message
            logger.warning("the proxy still says that it is ready", extra=fields.of(DETAIL=text))
