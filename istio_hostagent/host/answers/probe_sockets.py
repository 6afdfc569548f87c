"""The answer of the worker that makes the sockets of probes; they come by another way."""

from typing import Any, NamedTuple

from . import checks, formats


class ProbeSockets(NamedTuple):
    """Of each kind of socket and of the device 0, or the error that kept it from being made."""

    errnos: tuple[int, ...]


def _read(value: Any, request: Any) -> ProbeSockets:
    length = len(request["groups"]) + 2  # and the packet socket, and the device
    found = checks.read_list(checks.read_object(value, "answer").get("errnos"), "errnos", length)
    return ProbeSockets(
        tuple(checks.read_number(each, "errnos", 0, checks.MAX_ERRNO) for each in found)
    )


FORMAT = formats.Format(4096, 1000, _read)
