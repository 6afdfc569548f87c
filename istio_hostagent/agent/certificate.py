"""The certificate part of the agent: what is held, when to ask again, and the worker that asks.

The resident process never opens a key or talks to a CA; a worker that runs as istio-proxy does,
and this part only keeps the dates it reports (design invariants 5 to 7).
"""

import logging
import os
from typing import Any

from ..config import model
from ..errors import HostAgentError
from ..host import files, ports, processes
from ..identity import schedule
from . import fields, issuance, stores, tasks

logger = logging.getLogger(__name__)

WORKER = "certificate"
KEY = "key.pem"
# What only an operator can mend is tried again this seldom, and at once when a credential changes.
REFUSED_PAUSE_S = 300.0
# Without a certificate nothing works: of more failures than this (about half a minute apart) none
# makes the pause longer.
MAX_COUNTED = 5


class CertificatePart:
    """Keeps a fresh certificate on disk and knows until when it is good."""

    def __init__(self, work: tasks.Tasks, clock: ports.Clock, facts: model.HostFacts) -> None:
        """Start with nothing known: the first question is what lies on disk."""
        self._work = work
        self._clock = clock
        self._facts = facts
        self._settings: model.IdentitySettings | None = None
        self._done: list[tasks.Done] = []
        self._seen: tuple[object, object] = (None, None)
        self._is_overtaken = False
        self._has_looked = False
        self._may_release = False
        self.held: issuance.Report | None = None
        self.trouble: issuance.Trouble | None = None
        self.failures = 0
        self.next_at = 0.0  # unix seconds
        self._planned_at = 0.0
        self.obtained = 0

    def configure(self, settings: model.IdentitySettings) -> None:
        """Take new settings; what is held for other ones counts no more."""
        if settings != self._settings:
            self._settings = settings
            self._may_release = True
            self._is_overtaken = False
            self.held = None
            self._has_looked = False
            self.trouble = None
            # What a worker brings for the settings before is not wanted any more.
            self._work.abandon(WORKER)
            stores.stop_release(self._work, str(self._facts.state_dir), str(settings.output_dir))
            self.retry_now()

    @property
    def is_held(self) -> bool:
        """Whether a certificate is held that has not lapsed."""
        return self.held is not None and self._clock.now() < self.held.not_after

    @property
    def is_asking(self) -> bool:
        """Whether the worker runs."""
        return self._work.is_running(WORKER)

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask."""
        now = self._clock.now()
        # A clock that was put back: what was planned by it means nothing.
        return self._settings is not None and (now >= self.next_at or now < self._planned_at)

    def retry_now(self) -> None:
        """Ask at once, as if nothing had failed."""
        self.failures = 0
        self.next_at = self._planned_at = 0.0
        self._seen = self._credentials()

    def look_at_credentials(self) -> None:
        """Files may have changed: after a failure, a new token or root is tried at once."""
        if (self.trouble is not None or self.is_asking) and self._credentials() != self._seen:
            self.retry_now()
            self._is_overtaken = self.is_asking

    def _credentials(self) -> tuple[object, object]:
        if self._settings is None:
            return None, None
        return (
            files.fingerprint(str(self._settings.token_file)),
            files.fingerprint(str(self._settings.root_file)),
        )

    def ask(self, *, done: tasks.Done | None = None, is_forced: bool = False) -> None:
        """Start the worker; what is held is renewed if it is due, or `is_forced`.

        What lies on disk is looked at first: a CA that is away must not keep a proxy waiting for
        a certificate that is still good.
        """
        if done is not None:
            self._done.append(done)
        if self.is_asking or self._settings is None:
            return
        user = processes.User(self._facts.proxy_uid, self._facts.proxy_gid)
        output = str(self._settings.output_dir)
        try:
            store = stores.make(str(self._facts.state_dir), output, (user.uid, user.gid))
        except OSError as error:
            self._finish({"held": None, "error": {"code": "not-permitted", "message": str(error)}})
            return
        if not self._has_looked and os.path.lexists(self._settings.output_dir / KEY):
            operation, finish = "inspect", self._looked
        else:
            operation = "renew" if is_forced or self.is_held else "ensure"
            finish = self._finish
        self._work.start_worker(
            WORKER,
            issuance.make_request(self._settings, operation, store),
            user=user,
            timeout_s=issuance.TIMEOUT_S + 5.0,
            done=finish,
        )

    def release_others(self) -> None:
        """Give back the directories of an OUTPUT_CERTS that has worked before and is not wanted.

        Call it when what is in force has worked: until then the one before may come back.
        """
        if not self._may_release or self._settings is None:
            return
        self._may_release = False
        state, output = str(self._facts.state_dir), str(self._settings.output_dir)
        user = processes.User(self._facts.proxy_uid, self._facts.proxy_gid)
        stores.release_others(self._work, state, output, user)

    def _looked(self, answer: Any) -> None:
        """What is on disk is known; if it is no good, or somebody waits, the CA is asked next."""
        if isinstance(answer, HostAgentError):
            self._finish(answer)
            return
        self._has_looked = True
        waiting, self._done = self._done, []
        is_good = answer.get("held") is not None
        if is_good:
            self._finish(answer)
        if waiting or not is_good:
            self._done = waiting
            self.retry_now()

    def _finish(self, answer: Any) -> None:
        if isinstance(answer, HostAgentError):
            answer = {"error": {"code": answer.code, "message": answer.message, "hint": ""}}
        now = self._planned_at = self._clock.now()
        held = answer.get("held")
        if held is not None:
            self.held = issuance.Report(
                held["identity"],
                held["serial"],
                held["not_before"],
                held["not_after"],
                held["received"],
            )
        error = answer.get("error")
        if error is None and self.held is not None:
            self._accept(held, now)
        else:
            error = error or {"code": "child-failed", "message": "the worker gave no certificate"}
            self._refuse(error, now)
        waiting, self._done = self._done, []
        for done in waiting:
            done(answer)

    def _accept(self, held: dict[str, Any], now: float) -> None:
        assert self.held is not None and self._settings is not None
        self.failures = 0
        self.trouble = None
        self.next_at = self._next(now)
        if held.get("obtained"):
            self.obtained += 1
            logger.info(
                "certificate obtained",
                extra=fields.of(
                    IDENTITY=self.held.identity,
                    SERIAL=self.held.serial,
                    VIA=held.get("via", ""),
                    HELD_UNTIL=fields.moment(self.held.not_after),
                    NEXT_TRY=fields.moment(self.next_at),
                ),
            )

    def _refuse(self, error: dict[str, Any], now: float) -> None:
        self.failures += 1
        trouble = issuance.Trouble(error["code"], error["message"], error.get("hint", ""))
        self.next_at = self._next(now)
        if trouble.code == "certificate-refused":
            self.next_at = max(self.next_at, now + REFUSED_PAUSE_S)
            if self.held is not None:
                self.next_at = min(self.next_at, max(now + 1.0, self.held.not_after))
        if self._is_overtaken:
            # The worker may have read the token before it changed.
            self._is_overtaken = False
            self.next_at = now
        if trouble != self.trouble or self.failures & (self.failures - 1) == 0:
            logger.warning(
                "no certificate; keeping what is held" if self.held else "no certificate",
                extra=fields.of(
                    CODE=trouble.code,
                    DETAIL=trouble.message,
                    HINT=trouble.hint,
                    FAILURES=self.failures,
                    NEXT_TRY=fields.moment(self.next_at),
                ),
            )
        self.trouble = trouble

    def _next(self, now: float) -> float:
        assert self._settings is not None
        jitter = int.from_bytes(os.urandom(4), "big") / 2**31 - 1.0
        due = schedule.next_attempt(
            self.held.validity if self.held is not None else None,
            issuance.date(now),
            failures=self.failures if self.is_held else min(self.failures, MAX_COUNTED),
            jitter=jitter,
            ratio=self._settings.grace_ratio,
        )
        return due.timestamp()
