"""How rows of the table are written: one line for a packet of both families."""

from typing import Any

from tests.conformance import model
from tests.conformance.model import Packet, Pair, Place, User

# Of one IP version only where the text names one address.
Target = Pair | str


def tcp(user: User, to: Target, port: int, expected: str, **options: Any) -> tuple[Packet, ...]:
    """A program of the host connects."""
    return _packets(Place.HOST, user, model.TCP, to, port, expected, options)


def udp(user: User, to: Target, port: int, expected: str, **options: Any) -> tuple[Packet, ...]:
    """A program of the host asks by UDP."""
    return _packets(Place.HOST, user, model.UDP, to, port, expected, options)


def both(user: User, to: Target, port: int, expected: str, **options: Any) -> tuple[Packet, ...]:
    """A program of the host asks by UDP and connects."""
    return udp(user, to, port, expected, **options) + tcp(user, to, port, expected, **options)


def inbound(to: Target, port: int, expected: str, protocol: str = "tcp") -> tuple[Packet, ...]:
    """Somebody outside connects."""
    return _packets(Place.OUTSIDE, model.APP, protocol, to, port, expected, {})


def guest(to: Target, port: int, expected: str, protocol: str = "tcp") -> tuple[Packet, ...]:
    """The guest connects."""
    return _packets(Place.GUEST, model.APP, protocol, to, port, expected, {})


def invalid(protocol: str, expected: str) -> tuple[Packet, ...]:
    """Somebody outside sends what connection tracking calls invalid."""
    options = {"source": model.OUTSIDE}
    return _packets(Place.OUTSIDE, model.ROOT, protocol, model.OWN, 22, expected, options)


def _packets(
    place: Place,
    user: User,
    protocol: str,
    to: Target,
    port: int,
    expected: str,
    options: dict[str, Any],
) -> tuple[Packet, ...]:
    """`options` of Packet; a Pair among them is taken apart like `to`."""
    made = []
    for host in to if isinstance(to, Pair) else (to,):
        own: dict[str, Any] = {
            key: value[":" in host] if isinstance(value, Pair) else value
            for key, value in options.items()
        }
        made.append(Packet(place, user, protocol, host, port, expected, **own))
    return tuple(made)
