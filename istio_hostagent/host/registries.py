"""Have a worker register or deregister a service, for verbs.

As root it is a process of istio-proxy's that speaks to the registry, into which nobody but root
can look; for anybody else it is their own, and so it is through a unix socket, to which only its
owner may be let.
"""

import os
from typing import Any

from ..config import services
from ..errors import HostAgentError
from . import processes, users
from .answers import registration

WORKER = "registration"
TIMEOUT_S = 30.0
_SPARE_S = 5.0  # for the worker to begin and to end


class Failed(HostAgentError):
    """The registry, or what leads to it, said no; code and exit status are that error's."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        """Take them from a worker's answer."""
        super().__init__(message, hint=hint)
        kinds = {kind.code: kind for kind in HostAgentError.__subclasses__()}
        self.code = code  # type: ignore[misc] # one error, one code
        self.exit_status = kinds[code].exit_status if code in kinds else 70  # type: ignore[misc]


def register(
    access: services.Access, service: services.Registration
) -> tuple[registration.Instance, ...]:
    """Put it there; raises HostAgentError."""
    return _ask(access, "register", service)


def deregister(
    access: services.Access, service: services.Registration
) -> tuple[registration.Instance, ...]:
    """Take it away, with these ports or, if none is named, with all; raises HostAgentError."""
    return _ask(access, "deregister", service)


def _ask(
    access: services.Access, action: str, service: services.Registration
) -> tuple[registration.Instance, ...]:
    becomes_proxy = os.geteuid() == 0 and not access.address.startswith("unix:")
    request: dict[str, Any] = {
        "access": access._asdict(),
        "user": users.probe_user() if becomes_proxy else None,
        "timeout_s": TIMEOUT_S,
        "action": action,
        "service": service._asdict(),
    }
    # The token passes through a memory file of root's, never through one of istio-proxy's.
    worker = processes.Worker(WORKER, request, user=None)
    found: registration.Registered = worker.run(TIMEOUT_S + _SPARE_S)
    if found.error is not None:
        raise Failed(*found.error)
    return found.instances
