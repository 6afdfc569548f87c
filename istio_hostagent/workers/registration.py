"""Register and deregister services at a registry; asked by verbs and by the agent.

In:  {"access": a `config.services.Access` as an object, "user": [uid, gid] to become before
     anything of the network is read, or null, "timeout_s", "action": "register" |
     "deregister" with "service": what `config.services.Registration` has; "keep" with "services",
     "trouble": why they are not well, or empty, and "gone": IDs to take away; "withdraw" with
     "gone"}
Out: {"instances": [{"id", "outcome"}]}, or "error": {"code", "message", "hint"}

Where a user is named the files of the access are read as root first; then a child becomes that
user, into which nobody but root can look, and speaks to the registry.
"""

import json
import os
import sys
from typing import Any

from ..config import services
from ..errors import HostAgentError
from ..host import consul
from . import apart, consulservices

MAX_ANSWER = 1 << 18


def main() -> None:
    """Read one request, write one answer."""
    json.dump(perform(json.load(sys.stdin)), sys.stdout)


def perform(request: dict[str, Any]) -> dict[str, Any]:
    """Do it; a failure is an answer as well."""
    access = services.Access(**request["access"])
    try:
        credentials = consul.read_credentials(access)
        user = request["user"]
        if user is None or os.geteuid() != 0:
            return _converse(request, access, credentials)
        uid, gid = user
        found: dict[str, Any] = apart.run(
            uid,
            gid,
            lambda: _converse(request, access, credentials),
            name="the process that speaks to the registry",
            max_bytes=MAX_ANSWER,
        )
        return found
    except HostAgentError as error:
        return _failed(error)


def _converse(
    request: dict[str, Any], access: services.Access, credentials: consul.Credentials
) -> dict[str, Any]:
    try:
        api = consul.Api(access, credentials, timeout_s=request["timeout_s"])
        try:
            return {"instances": _act(api, request)}
        finally:
            api.close()
    except HostAgentError as error:
        return _failed(error)


def _act(api: consul.Api, request: dict[str, Any]) -> list[dict[str, str]]:
    match request["action"]:
        case "register":
            service = _read(request["service"])
            done = consulservices.register(api, service)
            consulservices.wait_seen(api, service.name, {each["id"] for each in done})
            return done
        case "deregister":
            service = request["service"]
            ports = [number for _, number in service["ports"]]
            return consulservices.deregister(api, service["name"], service["address"], ports)
        case "keep":
            wanted = [_read(each) for each in request["services"]]
            kept = [(each.name, consulservices.register(api, each)) for each in wanted]
            done = [each for _, instances in kept for each in instances]
            numbers = [each["id"] for each in done if each["outcome"] != "others"]
            consulservices.tell_trouble(api, numbers, request["trouble"])
            done += consulservices.withdraw(api, request["gone"])
            # The last: nothing above has to wait until the servers know.
            for name, instances in kept:
                consulservices.wait_seen(api, name, {each["id"] for each in instances})
            return done
        case "withdraw":
            return consulservices.withdraw(api, request["gone"])
        case other:
            raise AssertionError(other)


def _read(service: dict[str, Any]) -> services.Registration:
    return services.Registration(
        name=service["name"],
        address=service["address"],
        ports=tuple(services.Port(*each) for each in service["ports"]),
        labels=tuple((key, value) for key, value in service["labels"]),
        annotations=tuple((key, value) for key, value in service["annotations"]),
        account=service["account"],
        check=service["check"],
    )


def _failed(error: HostAgentError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message, "hint": error.hint}}


if __name__ == "__main__":
    main()
