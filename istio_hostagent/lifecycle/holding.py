"""The capture ports as a value: which are to be held for the proxy, which are, when to try again.

Not here: sockets (the part performs). A port that is held is one that no other user can bind; what
is captured arrives there. Instants are monotonic seconds.
"""

from typing import NamedTuple

# A port that is taken is tried again after 0.4 s, then twice as long, up to half a minute.
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
COUNTED = 8


class Holding(NamedTuple):
    """The ports of one host."""

    desired: frozenset[int] = frozenset()
    held: frozenset[int] = frozenset()
    failures: int = 0
    retry_at: float = 0.0
    last_error: str = ""

    @property
    def is_held(self) -> bool:
        """Whether nobody else can have what is desired."""
        return self.desired <= self.held

    @property
    def others(self) -> frozenset[int]:
        """What is held and not desired any more."""
        return self.held - self.desired

    def is_due(self, now: float) -> bool:
        """Whether what is not held is to be tried now."""
        return not self.is_held and now >= self.retry_at


def desire(value: Holding, ports: frozenset[int]) -> Holding:
    """These ports are captured into, or are to be; what is held stays so."""
    if ports == value.desired:
        return value
    return retry(value)._replace(desired=ports, last_error="")


def retry(value: Holding) -> Holding:
    """Somebody asks, or something has changed: what failed may be tried at once."""
    return value._replace(failures=0, retry_at=0.0)


def holds(value: Holding, held: frozenset[int]) -> Holding:
    """All that is desired is held now."""
    return retry(value)._replace(held=held, last_error="")


def failed(value: Holding, held: frozenset[int], error: str, now: float) -> Holding:
    """Not all could be held."""
    failures = min(value.failures + 1, COUNTED)
    pause = min(FIRST_PAUSE_S * 2**failures, LONGEST_PAUSE_S)
    return value._replace(held=held, failures=failures, retry_at=now + pause, last_error=error)


def let_go(value: Holding, held: frozenset[int]) -> Holding:
    """Some ports are not held any more."""
    return value._replace(held=held)
