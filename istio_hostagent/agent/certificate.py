"""The certificate part of the agent: what is held, when to ask again, and the worker that asks.

The resident process never opens a key or talks to a CA; a worker that runs as istio-proxy does,
and this part only keeps the dates it reports (design invariants 5 to 7).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..config import model
from ..errors import ChildFailed, HostAgentError, NotPermitted, describe
from ..host import ports, processes
from ..host.answers import certificate as answers
from ..identity import credentials, nodeagent, rotation
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from ..lifecycle.steps import Step
from . import events, fields, issuance, part, stores, tasks

logger = logging.getLogger(__name__)
# What `systemctl status istio-auth-node-agent` shows, beside our own log.
classic = logging.getLogger(nodeagent.__name__)

WORKER = "certificate"
COPIED = (
    "the certificate in use was obtained by another machine: this disk is a copy of that one's "
    "(/etc/machine-id differs); the CA is asked for one of this machine's own"
)


class Place(NamedTuple):
    """The directory that readers look into, and what is kept behind it."""

    directory: str
    store: str


class CertificatePart(part.Part):
    """Keeps a fresh certificate on disk and knows until when it is good."""

    def __init__(
        self,
        work: tasks.Tasks,
        clock: ports.Clock,
        files: ports.CertificateFiles,
        jitter: Callable[[], float],
        facts: model.HostFacts,
    ) -> None:
        """Start with nothing known: the first question is what lies on disk.

        `jitter` gives another number from -1 to 1 each time. Of `facts` only what never changes
        is used.
        """
        self._work = work
        self._clock = clock
        self._files = files
        self._jitter = jitter
        self._user = processes.User(facts.proxy_uid, facts.proxy_gid)
        self._settings: model.IdentitySettings | None = None
        self._done: list[tasks.Done] = []
        self._seen: tuple[object, ...] = ()
        self._files_seen: tuple[object, ...] = ()
        self._seen_credentials: tuple[credentials.Credential, ...] = ()
        self.value = rotation.Rotation()
        self.obtained = 0
        self.place: Place | None = None  # where what is held lies

    @property
    def steps(self) -> Mapping[Step, part.Perform]:
        """What it asks workers for."""
        return {Step.OBTAIN: part.silently(self.ask)}

    def configure(self, config: model.Config, _facts: model.HostFacts) -> None:
        """Take new settings; what is held for other ones counts no more."""
        settings = config.identity
        if settings != self._settings:
            self._settings = settings
            self._files.keep_out(settings.output_dir)
            self.value = rotation.configured()
            self._seen_credentials = ()
            # What a worker brings for the settings before is not wanted any more.
            self._work.abandon(WORKER)
            stores.stop_release(self._work, settings.output_dir)
            self._seen = self._credentials()

    def handle(self, event: events.Event) -> None:
        """Look at files, where somebody may have changed them."""
        match event:
            case events.Reloading(is_asked):
                if is_asked:
                    self.value = rotation.credentials_changed(self.value)
                self.look_at_credentials()
                self.look_at_files()
            case events.Heartbeat():
                self.look_at_files()

    def find_root_file(self) -> str:
        """Where the roots lie that go with what is held; empty where nothing is known."""
        directory = self._settings.output_dir if self._settings is not None else ""
        return f"{directory}/root-cert.pem" if directory else ""

    @property
    def last_error(self) -> str:
        """Why there is no fresh certificate, and what to do about it, or nothing."""
        texts = [self.value.last_error.text] if self.value.last_error is not None else []
        if self.value.held is not None and self.value.held.is_copied:
            texts.append(COPIED)
        return "; ".join(texts)

    def obstacle(self, _life: Life) -> str:
        """Why there is no fresh certificate."""
        return f"certificate: {self.last_error}" if self.last_error else ""

    def code(self, _life: Life) -> str:
        """What kind of failure it was."""
        last_error = self.value.last_error
        return last_error.code if last_error is not None else "certificate-copied"

    def status(self, _life: Life, now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        value, held = self.value, self.value.held
        state = "none" if held is None else "held" if value.is_held(now.wall) else "expired"
        return {
            "state": state,
            "directory": self._settings.output_dir if self._settings else "",
            "renewed_in": self._settings.renewed_in if self._settings else "",
            "renewed_by": self._settings.renewed_by if self._settings else "",
            "identity": held.identity if held else "",
            "serial": held.serial if held else "",
            "not_before": held.not_before if held else None,
            "not_after": held.not_after if held else None,
            "next_attempt": value.next_at or None,
            "failures": value.failures,
            "renewal": _renewal(value),
            "failing_since": value.failing_since,
            "obtained": self.obtained,
            "last_error": self.last_error,
            "credentials": self._credential_status(now.wall),
        }

    def _credential_status(self, now: float) -> list[dict[str, Any]]:
        """What can be shown to the CA, in the order in which it is tried."""
        if self._settings is None:
            return []
        until = self.value.held.not_after if self.value.held is not None else None
        described = credentials.describe(self._settings, self._seen_credentials, until, now)
        return [
            {
                "kind": each.via,
                "state": _credential_state(each),
                "until": each.until,
                "reason": each.reason or "",
            }
            for each in described
        ]

    def look_at_credentials(self) -> None:
        """Files may have changed: after a failure, a new token or root is tried at once.

        Those that somebody else renews are looked at in any case.
        """
        if self._credentials() == self._seen:
            return
        if self._is_mounted:
            if not self.value.is_asking:  # else when it has ended
                self.value = rotation.retry(self.value)
                self._seen = self._credentials()
            return
        before, self.value = self.value, rotation.credentials_changed(self.value)
        if self.value != before:
            self._seen = self._credentials()

    @property
    def watched(self) -> tuple[str, ...]:
        """The files to be watched."""
        if self._settings is None:
            return ()
        watched = self._files.watched(self._settings.output_dir)
        if self._is_mounted:
            return watched + self._foreign
        return watched + self._provisioned

    @property
    def _is_mounted(self) -> bool:
        """Whether somebody else renews the certificate."""
        return self._settings is not None and bool(self._settings.renewed_in)

    @property
    def _foreign(self) -> tuple[str, ...]:
        """The files, or the socket, of whoever else renews the certificate."""
        assert self._settings is not None
        if self._settings.secret_source:
            return (self._settings.secret_source,)
        return self._files.watched(self._settings.mounted_dir)

    def look_at_files(self) -> None:
        """Files may have changed: if those of the certificate have, see what they are now."""
        if self._files_seen and not self.value.is_asking and self._look() != self._files_seen:
            self._files_seen = ()
            self.value = rotation.doubted(self.value)

    def _look(self) -> tuple[object, ...]:
        assert self._settings is not None
        return self._files.look(self._settings.output_dir)

    def _credentials(self) -> tuple[object, ...]:
        if self._settings is None:
            return ()
        paths: tuple[str, ...] = (self._settings.token_file, self._settings.root_file)
        if self._is_mounted:
            paths = self._foreign
        else:
            paths += self._provisioned
            if self.value.held is None:
                # What somebody puts there is a credential, and may be the certificate itself.
                paths += self._files.watched(self._settings.output_dir)
        return tuple(map(self._files.fingerprint, paths))

    @property
    def _provisioned(self) -> tuple[str, ...]:
        """The files of PROV_CERT, where that is not the directory into which we write."""
        assert self._settings is not None
        place = self._settings.provisioned_dir
        return self._files.watched(place) if place != self._settings.output_dir else ()

    def renew(self, done: tasks.Done) -> None:
        """Renew what is held now, whether it is due or not; `done` gets the answer."""
        self._done.append(done)
        self.ask(is_forced=True)

    def ask(self, *, is_forced: bool = False) -> None:
        """Start the worker; what is held is renewed if it is due, or `is_forced`.

        What lies on disk is looked at first: a CA that is away must not keep a proxy waiting for
        a certificate that is still good.
        """
        if self.value.is_asking or self._settings is None:
            return
        self._seen = self._credentials()
        output = self._settings.output_dir
        try:
            store = self._files.make_store(output, self._user)
            self.place = Place(output, store)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            message = f"no place for certificates: {place}{describe(error)}"
            failure = rotation.Failure(NotPermitted.code, message)
            self._finish(answers.Certificate(error=failure))
            return
        if not self.value.has_looked and self._files.has_key(output):
            operation, finish = "inspect", self._looked
        else:
            is_held = self.value.has_looked and self.value.is_held(self._clock.now())
            operation, finish = "renew" if is_forced or is_held else "ensure", self._finish
            classic.info(nodeagent.sending(self.value.failures))
        call_s = self.value.call_time(self._clock.now(), issuance.TIMEOUT_S)
        self.value = rotation.asked(self.value)
        self._work.start_worker(
            WORKER,
            issuance.make_request(self._settings, operation, store, call_s),
            user=self._user,
            timeout_s=issuance.TIMEOUT_S + 5.0,
            done=finish,
        )

    def release_others(self) -> None:
        """Give back the directories of an OUTPUT_CERTS that has worked before and is not wanted.

        Only when what is in force has worked: until then the one before may come back.
        """
        if self._settings is None:
            return
        output = self._settings.output_dir
        stores.release_others(self._work, self._files, output, self._user)

    def _looked(self, answer: answers.Certificate | HostAgentError) -> None:
        """What is on disk is known; if it is no good, or somebody waits, the CA is asked next."""
        if isinstance(answer, HostAgentError):
            self._finish(answer)
            return
        waiting, self._done = self._done, []
        self.value = rotation.looked(self.value, answer.held)
        if answer.held is not None:
            self._finish(answer)
        if self._is_mounted:  # it may have been renewed while no agent was there
            self.value = rotation.retry(self.value)
        if waiting:
            self._done = waiting
            self.ask(is_forced=True)

    def _finish(self, answer: answers.Certificate | HostAgentError) -> None:
        if isinstance(answer, HostAgentError):
            failure = rotation.Failure(answer.code, answer.message, answer.hint)
            answer = answers.Certificate(error=failure)
        self._files_seen = self._look()
        self._seen_credentials = answer.looked or self._seen_credentials
        if answer.error is None and answer.held is not None:
            self._accept(answer.held, answer)
        else:
            none = rotation.Failure(ChildFailed.code, "the worker gave no certificate")
            self._refuse(answer.error or none, answer.held)
        if self._is_mounted:
            self.look_at_credentials()  # what has changed meanwhile
        waiting, self._done = self._done, []
        for done in waiting:
            done(answer)

    def _accept(self, held: rotation.Report, answer: answers.Certificate) -> None:
        assert self._settings is not None
        now, again_s = self._clock.now(), None
        if self._is_mounted:
            is_told = not self._settings.secret_source
            again_s = rotation.look_again(held, now, is_told=is_told)
        self.value = rotation.obtained(
            self.value,
            held,
            now,
            jitter=self._jitter(),
            ratio=self._settings.grace_ratio,
            again_s=again_s,
            spread=self._settings.grace_spread,
            is_found=self.value.held is None and not answer.is_obtained,
        )
        if answer.is_obtained:
            self.obtained += 1
            classic.info(nodeagent.approved(self.value.next_at - self._clock.now()))
            logger.info(
                "certificate obtained",
                extra=fields.of(
                    IDENTITY=held.identity,
                    SERIAL=held.serial,
                    VIA=answer.via,
                    FILE=self._settings.renewed_in,
                    CA_PROTOCOL=answer.protocol,
                    HELD_UNTIL=fields.moment(held.not_after),
                    NEXT_TRY=fields.moment(self.value.next_at),
                ),
            )

    def _refuse(self, last_error: rotation.Failure, held: rotation.Report | None) -> None:
        assert self._settings is not None
        before = self.value
        value = self.value = rotation.failed(
            before,
            last_error,
            self._clock.now(),
            jitter=self._jitter(),
            held=held,
        )
        pause_s = value.next_at - self._clock.now()
        classic.error(nodeagent.failed(last_error.text, pause_s))
        if last_error != before.last_error or value.failures & (value.failures - 1) == 0:
            logger.warning(
                "no certificate; keeping what is held" if value.held else "no certificate",
                extra=fields.of(
                    CODE=last_error.code,
                    DETAIL=last_error.message,
                    HINT=last_error.hint,
                    FAILURES=value.failures,
                    NEXT_TRY=fields.moment(value.next_at),
                ),
            )


def _credential_state(each: credentials.Credential) -> str:
    if each.reason is None:
        return "unknown"
    return "unusable" if each.reason else "good"


def _renewal(value: rotation.Rotation) -> str:
    if value.last_error is not None:
        return "failing"
    return "planned" if value.held is not None else "pending"
