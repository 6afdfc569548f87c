"""The serving part of the agent: asks the proxy whether it shows the certificate that is held.

When it is asked, and what becomes of one that shows another, is decided in `lifecycle.serving`.
Its admin interface lets istio-proxy in and not this process, so a worker asks.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import HostAgentError, describe
from ..host import ports, processes
from ..host.answers import served
from ..identity import rotation
from ..lifecycle import serving
from ..lifecycle.life import Life
from ..lifecycle.situation import Now
from ..lifecycle.steps import Step
from ..supervise import builds, child
from . import events, fields, part, proxy, tasks

logger = logging.getLogger(__name__)

WORKER = "served"
TIMEOUT_S = 10.0
_RUNNING = (child.State.STARTING, child.State.READY)


class ServingPart(part.Part):
    """Asks the proxy, and makes it load the certificate."""

    def __init__(
        self,
        work: tasks.Tasks,
        clock: ports.Clock,
        proxy_part: proxy.ProxyPart,
        certificate: Callable[[], rotation.Rotation],
        root_file: Callable[[], str],
        listening: Callable[[int], bool | None],
        user: processes.User,
    ) -> None:
        """Start with nothing known.

        `certificate`: what is held, and whether another is being obtained; `root_file`: the roots
        that go with it; `listening`: whether the proxy, and nobody else, listens on a port (None:
        there is no telling); `user`: whom its admin interface lets in.
        """
        self._work = work
        self._clock = clock
        self._proxy = proxy_part
        self._certificate = certificate
        self._root_file = root_file
        self._listening = listening
        self._user = user
        self._serials: tuple[str, ...] | None = None
        self._asked: float | None = None  # unix seconds
        self._loads = 0
        self._obstruction = ""  # why it could not be made to load the files, the last time
        self.value = serving.Serving()

    @property
    def steps(self) -> Mapping[Step, part.Perform]:
        """To ask, and to mend."""
        return {
            Step.ASK_SERVED: part.silently(self._ask),
            Step.RELOAD_SERVED: part.silently(self._load_again),
            Step.REPLACE_PROXY: part.silently(self._replace),
        }

    def handle(self, event: events.Event) -> None:
        """See what runs and what is held; now and then ask although nothing has changed."""
        now = self._clock.monotonic()
        match event:
            case events.TimePassed():
                self.value = serving.look(self.value, self._subject(), now)
            case events.Heartbeat():
                self.value = serving.look_again(self.value, now)
            case events.Reloading(is_asked=True):
                self.value = serving.retry(self.value, now)

    def _subject(self) -> serving.Subject | None:
        held, supervised = self._certificate().held, self._proxy.child
        asked, is_handing_over = supervised.serving, supervised.child.is_handing_over
        if held is None or asked is None:
            return None
        if not (is_handing_over or supervised.state in _RUNNING):
            return None
        is_ready = is_handing_over or supervised.state is child.State.READY
        return serving.Subject(asked.number, held.serial, is_ready)

    def _ask(self) -> None:
        built, asked = self._proxy.serving_build, self._proxy.child.serving
        held, about = self._certificate().held, self.value.subject
        assert built is not None and held is not None and asked is not None
        self.value = serving.asked(self.value, self._clock.monotonic())
        self._asked = self._clock.now()
        admin = asked.spec.admin
        if not admin.socket and self._listening(admin.port) is False:
            # Moved by PROXY_CONFIG, or not there yet: whoever else answers there is no witness.
            error = f"its admin interface is not at 127.0.0.1:{admin.port}"
            self._serials = None
            self.value = serving.unanswered(self.value, error, self._clock.monotonic())
            return
        request = {
            "socket": admin.socket,
            "port": admin.port,
            "identity": held.identity,
            "shown_at": [list(each) for each in built.spec.shown_at],
            "root_file": self._root_file(),
        }
        is_shown = builds.shows_certificate(built)

        def done(answer: served.Served | HostAgentError) -> None:
            self._answered(about, answer, is_shown=is_shown)

        self._work.start_worker(WORKER, request, user=self._user, timeout_s=TIMEOUT_S, done=done)

    def _answered(
        self,
        about: serving.Subject | None,
        answer: served.Served | HostAgentError,
        *,
        is_shown: bool,
    ) -> None:
        before = self.value.shown
        if isinstance(answer, HostAgentError):
            self._serials, error = None, str(answer)
        elif answer.error is not None:
            self._serials, error = None, answer.error.message
        else:
            self._serials, error = answer.serials, ""
            if not answer.serials and not is_shown:
                error = "shows no certificate of this host, as its control plane may want it"
        if error or self._serials is None:
            self.value = serving.unanswered(self.value, error, self._clock.monotonic())
            return
        now = self._clock.monotonic()
        self.value = serving.look(self.value, self._subject(), now)
        is_held = about is not None and about.serial in self._serials
        if self._certificate().is_asking and not is_held:
            # A proxy reads a new certificate as soon as the worker has written it.
            self.value = serving.overtaken(self.value, now)
            return
        self.value = serving.answered(self.value, about, self._serials, now)
        if self.value.shown is serving.Shown.OTHER and before is not serving.Shown.OTHER:
            logger.error("proxy %s", self.value.last_error, extra=fields.of(CODE="not-shown"))
        elif self.value.shown is serving.Shown.HELD and before is serving.Shown.OTHER:
            logger.info("proxy shows the certificate that is held again")

    def _load_again(self) -> None:
        now = self._clock.monotonic()
        built = self._proxy.serving_build
        if built is not None and built.spec.secret_socket:
            # Nobody can tell it to ask, and a new one would have to ask the same server.
            self.value = serving.left_alone(self.value, now)
            path = built.spec.secret_socket
            self._obstructed(f"the secret server at {path} has not given it that")
            return
        # One or two: what Envoy was started with has none of these.
        self._loads += 1
        try:
            self._proxy.load_again(1 + self._loads % 2)
        except OSError as error:
            self.value = serving.put_off(self.value, now)
            self._obstructed(f"it cannot be made to load that one: {describe(error)}")
            return
        self._obstruction = ""
        self.value = serving.mended(self.value, now)

    def _obstructed(self, why: str) -> None:
        if why != self._obstruction:
            logger.warning(
                "proxy %s; %s", self.value.last_error, why, extra=fields.of(CODE="not-told")
            )
        self._obstruction = why

    def _replace(self) -> None:
        logger.error(
            "proxy goes on showing another certificate; it is replaced",
            extra=fields.of(CODE="not-shown", DETAIL=self.value.last_error),
        )
        self._proxy.child.replace()
        self.value = serving.mended(self.value, self._clock.monotonic())

    @property
    def _last_error(self) -> str:
        value = self.value
        if value.shown is not serving.Shown.OTHER:
            return value.last_error if value.shown is serving.Shown.UNKNOWN else ""
        if self._obstruction:
            return f"{value.last_error}; {self._obstruction}"
        if value.tries <= serving.RELOADS:
            return f"{value.last_error}; it is made to load that one"
        if value.tries == serving.RELOADS + 1 and value.mend_at is None:
            return f"{value.last_error}; it is replaced"
        return (
            f"{value.last_error}, also after it was replaced, which is tried again ever more "
            "seldom: look for sds in its log, and at the rights of the directory in OUTPUT_CERTS"
        )

    def obstacle(self, _life: Life) -> str:
        """That it shows another certificate; that this is not known is no obstacle."""
        is_other = self.value.shown is serving.Shown.OTHER
        return f"proxy: {self._proxy.kind.value} {self._last_error}" if is_other else ""

    def code(self, _life: Life) -> str:
        """The certificate that is held is not what neighbours see."""
        return "not-shown"

    def status(self, _life: Life, _now: Now) -> dict[str, Any]:
        """Its part of the report of `status`."""
        return {
            "state": self.value.shown.value,
            "serials": list(self._serials or ()),
            "asked": self._asked,
            "last_error": self._last_error,
        }
