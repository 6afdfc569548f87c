"""A process that outlives us, our terminal, its session and its login.

Everything else that we start ends with us (`processes`). Under systemd it is a transient unit,
since the end of a login may end all that is in the login's control group (KillUserProcesses= of
logind.conf(5)); elsewhere it is in a session of its own, as a child of nobody that we know.
"""

import os
from collections.abc import Sequence

from ..errors import HostUnsupported
from . import processes

# Where systemd is the service manager (sd_booted(3)).
_BOOTED = "/run/systemd/system"
_SETSID = "/usr/bin/setsid"
_SYSTEMD_RUN = "/usr/bin/systemd-run"
# How long the service manager may take; a busy machine needs some tenths of a second.
_START_S = 20.0
# systemd starts one again that was killed; it gives up on none.
_PROPERTIES = ("Restart=on-failure", "RestartSec=100ms", "StartLimitIntervalSec=0")


def start_worker(module: str, *arguments: str, unit: str, description: str) -> None:
    """Start `istio_hostagent.workers.<module>` in the network namespace we are in.

    `unit` is its name under systemd, without a suffix. Raises ChildFailed, HostUnsupported and
    OSError.
    """
    launcher = os.path.join(processes.PACKAGE, "workers", "launch.py")
    argv = [processes.PYTHON, "-I", "-S", "-X", "utf8", launcher, module, *arguments]
    wrapped = _wrap(argv, unit, description)
    nothing = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)]
    try:
        pid = os.posix_spawn(
            wrapped[0],
            wrapped,
            processes.BASE_ENVIRONMENT,
            file_actions=nothing,
            setsid=True,
            setsigmask=(),
        )
    except FileNotFoundError as error:
        raise HostUnsupported(f"{wrapped[0]} is missing") from error
    child = processes.Child(pid)
    status = child.wait(_START_S)
    if status != 0:
        if status is None:
            child.end(1.0)
        raise processes.ended_badly(os.path.basename(wrapped[0]), status, ())


def _wrap(argv: Sequence[str], unit: str, description: str) -> list[str]:
    """What ends once it runs: a service where it can be one, since that is started again."""
    if not os.path.isdir(_BOOTED):
        return [_SETSID, "--fork", *argv]
    named = [_SYSTEMD_RUN, "--quiet", "--collect", f"--unit={unit}"]
    named += [f"--description={description}"]
    if _is_in_first_namespace():
        properties = [f"--property={each}" for each in _PROPERTIES]
        return [*named, "--service-type=exec", *properties, "--", *argv]
    # A service would be in the namespace of the service manager: a scope takes who is here.
    return [_SETSID, "--fork", *named, "--scope", "--slice=system.slice", "--", *argv]


def _is_in_first_namespace() -> bool:
    own, first = (os.stat(f"/proc/{each}/ns/net") for each in ("self", "1"))
    return (own.st_dev, own.st_ino) == (first.st_dev, first.st_ino)
