"""The protocols by which a CA is asked for a certificate: what goes over the wire, nothing else.

Each module of a protocol has the same three names: METHOD, the gRPC method; `render(csr, ttl_s,
shown)`, the request as bytes; `parse(message)`, the answer, or ValueError. Transport and
credential are elsewhere (`host.ca`, `workers.credentials`).
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from . import citadel, istiod
from .messages import Answer, Shown


class Protocol(NamedTuple):
    """One of the modules of this package, as a value."""

    name: str
    method: str
    render: Callable[[bytes, int, Shown], bytes]
    parse: Callable[[bytes], Answer]


ISTIOD = Protocol("istiod", istiod.METHOD, istiod.render, istiod.parse)
CITADEL = Protocol("citadel", citadel.METHOD, citadel.render, citadel.parse)
BY_NAME = {each.name: each for each in (ISTIOD, CITADEL)}

# istio/istio security/pkg/pki/ca/ca.go, 0.5 to 1.30: Go's text of a duration in hours.
_LONGEST_LIFE = re.compile(
    r"is greater than the max allowed TTL (?:(\d{1,6})h)?(?:(\d{1,2})m)?(?:(\d{1,2})s)?\)"
)


def find_longest_life(words: str) -> int | None:
    """The longest life that a CA grants, in seconds, where it refuses a longer one; else None."""
    found = _LONGEST_LIFE.search(words)
    if found is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds
