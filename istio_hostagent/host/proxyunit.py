"""The proxy in units of its own: started, looked after, ended and found again by systemctl(1).

The service manager starts the process, so it outlives whoever asked for that: a restart, crash or
upgrade of the agent leaves it alone, and the next agent takes it on (`Units.find`) by what was
written down when it was started (`leftover`). No library of the bus is loaded. An Envoy that takes
over from another has a unit beside it; the two names are used by turns.
Not here: how a unit is looked after (`unitchild`), what is started (`supervise.specs`), and the
program that becomes it (`workers.proxy`).
Sources: systemctl(1), systemd.service(5), systemd.exec(5); the units say why they are as they are.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..supervise import launched, specs
from . import files, leftover, mailbox, notify, processes, unitchild

AGENT = "istio-hostagent.service"
# The second one has CAP_NET_ADMIN, as TPROXY needs it.
TEMPLATE = "istio-proxy@.service"
TEMPLATE_OF_ADMIN = "istio-proxy-transparent@.service"
# The resolver of names that has to be there as long as the proxy is.
UNITS_OF_SERVERS = {"resolver": "istio-proxy@names.service"}
_PLACES = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system")
# The only directory in which the units look for what to start.
RUNTIME_DIRECTORY = "/run/istio-hostagent"


def is_available(environment: Mapping[str, str]) -> bool:
    """Whether this process is the package's service, with units for the proxy beside it.

    Nothing else stops the proxy's unit when this host leaves the mesh.
    """
    if not notify.has_store(environment) or not unitchild.is_in_unit(os.getpid(), AGENT):
        return False
    return all(map(_is_there, (TEMPLATE, TEMPLATE_OF_ADMIN)))


def unit_of(spec: specs.ProcessSpec) -> str:
    """The unit in which it runs."""
    template = TEMPLATE_OF_ADMIN if spec.is_net_admin else TEMPLATE
    return template.replace("@", f"@{spec.slot}")


def _is_there(template: str) -> bool:
    paths = (os.path.join(place, template) for place in _PLACES)
    found = next(filter(os.path.lexists, paths), None)
    return found is not None and os.path.realpath(found) != os.devnull  # that is a masked one


class Units:
    """The units of one agent's proxy, or the one of a server beside it."""

    def __init__(
        self, inbox: mailbox.Mailbox[Any], record: leftover.Leftover, unit: str = ""
    ) -> None:
        """What runs is written down in `record`. `unit`: of a server; empty: the proxy's."""
        self._inbox = inbox
        self._record = record
        self._unit = unit

    def start(self, spec: specs.ProcessSpec) -> "UnitProgram":
        """Have it started; raises OSError. That it cannot be started is told like its end."""
        unit = self._unit or unit_of(spec)
        launch = render_launch(spec, leftover.namespace())
        # Before anything runs: whoever comes after a kill finds what to look after.
        is_beside = spec.epoch > 0
        self._record.record_unit(unit, launched.render(spec), is_beside=is_beside)
        path = os.path.join(RUNTIME_DIRECTORY, f"{unit.removesuffix('.service')}.launch")
        files.write_atomically(path, launch)
        program = UnitProgram(self._inbox, unit, self._record)
        program.child.start()
        return program

    def find(self) -> "tuple[tuple[specs.ProcessSpec, UnitProgram], ...]":
        """Find what an earlier agent has started, also what is ending; what came last is first.

        Raises OSError.
        """
        return tuple(map(self._take, self._record.find_units()))

    def _take(self, found: leftover.Recorded) -> "tuple[specs.ProcessSpec, UnitProgram]":
        if not found.is_known:
            # Whoever had it started was gone before it was told that it runs.
            pid, invocation = unitchild.ask(found.unit)
            found = found._replace(pid=pid, invocation=invocation)
            if pid:
                with contextlib.suppress(OSError):
                    self._record.record_process(found.unit, pid, invocation)
        try:
            spec = launched.parse(found.launched)
        except ValueError:
            # Of a version that says it otherwise: it is ended.
            spec, found = specs.ProcessSpec("proxy", (), (), 0, 0), found._replace(pid=0)
        program = UnitProgram(self._inbox, found.unit, self._record)
        program.child.take_on(found.pid, found.invocation)
        return spec, program


def server_spec(module: str, arguments: Sequence[str], user: processes.User) -> specs.ProcessSpec:
    """What a server of ours is as a program of a unit, in which the package can be read."""
    environment = processes.BASE_ENVIRONMENT | processes.SERVER_ENVIRONMENT
    return specs.ProcessSpec(
        module,
        (processes.PYTHON, "-I", "-S", "-X", "utf8", processes.OWN_LAUNCHER, module, *arguments),
        tuple(environment.items()),
        user.uid,
        user.gid,
        has_unit=True,
    )


def server_arguments(spec: specs.ProcessSpec) -> tuple[str, ...]:
    """The arguments that `server_spec` was given."""
    return spec.argv[7:]


def render_launch(spec: specs.ProcessSpec, namespace: int) -> bytes:
    """The words that `workers.proxy` reads, each ended by a zero byte; raises OSError."""
    made = {**processes.BASE_ENVIRONMENT, **dict(spec.environment)}
    environment = [f"{name}={value}" for name, value in made.items()]
    words = [
        str(namespace),
        spec.working_directory,
        str(len(environment)),
        *environment,
        *spec.argv,
    ]
    return b"".join(os.fsencode(word) + b"\0" for word in words)


class UnitProgram:
    """A proxy that has a unit of its own."""

    def __init__(self, inbox: mailbox.Mailbox[Any], unit: str, record: leftover.Leftover) -> None:
        """Nothing is started."""
        self.unit = unit
        self.child = unitchild.UnitChild(inbox, unit, record)

    def tail(self) -> tuple[str, ...]:
        """Return the last lines that it wrote; after its end, if nobody asked for that."""
        return self.child.last_lines

    def marked(self) -> tuple[str, ...]:
        """Nothing: its output is the journal's, which nobody here reads while it runs."""
        return ()

    def let_go(self) -> None:
        """Look after it no more, and leave it as it is."""
        self.child.let_go()
