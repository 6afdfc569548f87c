"""What must become of connections: expectations, each of one packet, and what came of them.

Not here: which expectations a configuration means (`probes`), sending (`host.probing`). Only an
observed difference breaks one; a host without a route or without IPv6 cannot test it, and says so.
"""

import enum
import errno
from collections.abc import Iterable
from typing import NamedTuple

from . import firewall


class Sender(enum.Enum):
    """Whose connection it is."""

    APPLICATION = "application"  # an ordinary user
    ROOT = "root"
    PROXY_USER = "proxy user"  # the proxy's uid, an ordinary group
    PROXY_GROUP = "proxy group"  # an ordinary user, the proxy's gid
    NEIGHBOUR = "neighbour"  # from outside, to this host or through it
    # the same by the interface of an own address, up to the last hook
    ON_LINK = "neighbour on a link"


class Shape(enum.Enum):
    """What the packet is of a connection, and how it is sent."""

    CONNECTION = "connection"  # the first packet, as connect(2) sends it
    SYN = "syn"  # the first packet as bytes, with no connection behind it: it may be refused
    ANSWER = "answer"  # the second packet as bytes: from `port`, to some port of `destination`
    DATAGRAM = "datagram"  # one of UDP, as sendto(2) sends it
    # one of UDP as bytes, as an answer: from `port`, to some port of `destination`
    ANSWER_DATAGRAM = "answer datagram"

    @property
    def is_answer(self) -> bool:
        """Whether the port of the expectation is the one that it comes from."""
        return self in (Shape.ANSWER, Shape.ANSWER_DATAGRAM)

    @property
    def is_datagram(self) -> bool:
        """Whether it is UDP."""
        return self in (Shape.DATAGRAM, Shape.ANSWER_DATAGRAM)

    @property
    def is_raw(self) -> bool:
        """Whether it is sent as bytes, with its IP header."""
        return self in (Shape.SYN, Shape.ANSWER, Shape.ANSWER_DATAGRAM)


class Expectation(NamedTuple):
    """One connection, and the proxy's port where it must arrive; 0: it is left alone.

    Or, if `is_refused`, it must come to nothing. `uid` and `gid`: of the sender, where they are
    not the usual ones (-1). What goes out or comes in by `excluded_interfaces` is left alone.
    `zone`: the tracking zone in which the answer to a datagram is looked for. `is_transparent`: it
    arrives without translation at the proxy, or is refused while none listens. By one of
    `guest_interfaces` it is outbound: it must arrive at `from_guest_at` instead of `captured_at`.
    `untestable`: why packets that this process sends say nothing of it, or nothing.
    `is_elsewhere`: the destination is no address of this host, as far as is known.
    """

    text: str
    sender: Sender
    destination: str
    port: int
    captured_at: int
    proxy_ports: tuple[int, ...]
    source: str = ""  # to be bound to; empty: as the kernel chooses
    is_final: bool = False  # nobody else may translate it either
    shape: Shape = Shape.CONNECTION
    is_refused: bool = False
    uid: int = -1
    gid: int = -1
    zone: int = 0
    excluded_interfaces: tuple[str, ...] = ()
    is_transparent: bool = False
    guest_interfaces: tuple[str, ...] = ()
    from_guest_at: int = 0
    untestable: str = ""
    is_elsewhere: bool = False

    def excludes(self, interface: str) -> bool:
        """Whether what goes by this interface is left alone."""
        return _is_one_of(self.excluded_interfaces, interface)

    def at(self, interface: str) -> int:
        """Where it must arrive when it comes in by this interface; 0: it is left alone."""
        is_guest = _is_one_of(self.guest_interfaces, interface)
        return self.from_guest_at if is_guest else self.captured_at


def _is_one_of(names: tuple[str, ...], interface: str) -> bool:
    return any(
        interface == name or (name.endswith("*") and interface.startswith(name[:-1]))
        for name in names
    )


class Fate(enum.Enum):
    """What became of a frame from a neighbour."""

    ARRIVED = "arrived"  # at the last hook before a socket, or before it is forwarded
    DROPPED = "dropped"
    LOST = "lost"  # where routes are looked up, which the reverse-path filter is part of
    UNSEEN = "unseen"


class Arrival(NamedTuple):
    """What became of a frame, and of the same one that our rules leave alone.

    `dropper`: who drops the first of the two that was dropped, if that is known; `is_traced`: it
    was looked for. `passages`: which rules let the second in, where the first was dropped alone.
    """

    captured: Fate
    direct: Fate
    source: str
    interface: str
    dropper: firewall.Dropper | None = None
    is_traced: bool = True
    passages: tuple[firewall.Passage, ...] = ()


class Outcome(NamedTuple):
    """Where the packet was going once all address translation was done.

    With `errno` it was never sent; with neither address nor errno nobody saw it. `zone`: the
    tracking zone of its answers, and `zoned_by` whose rule put it there. `interface`: by which it
    was going out, or came in. `arrival`: what became of it then, of one that was sent by a
    neighbour on a link. Of what arrives without translation: whether it was seen at all, and then
    whether the proxy's socket has got it. `is_own`: its destination turned out to be an address of
    this host.
    """

    address: str = ""
    port: int = 0
    errno: int = 0
    zone: int = 0
    zoned_by: str = ""
    arrival: Arrival | None = None
    interface: str = ""
    has_entered: bool = False
    is_taken: bool = False
    is_own: bool = False


class State(enum.Enum):
    """What came of an expectation."""

    MET = "met"
    BROKEN = "broken"
    NOT_TESTABLE = "not testable"


class Finding(NamedTuple):
    """An expectation and what came of it; the detail is a clause for people.

    `is_shut`: packets go where they must, and the host's firewall drops them there. `closed_by`:
    what in the host's firewall drops them without capture, and not with it. `passage`: where they
    are shut, the rule by which they would be let in, if there is one.
    """

    expectation: Expectation
    state: State
    detail: str = ""
    is_shut: bool = False
    closed_by: str = ""
    passage: firewall.Passage | None = None

    def __str__(self) -> str:
        """One line, for example `not testable: outbound 10.0.0.0/8 is captured: no route`."""
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.state.value}: {self.expectation.text}{detail}"


# Where a packet goes is followed by nf_tables alone, whoever keeps the rules.
NO_NFTABLES = "no nf_tables to follow packets with"
_REASONS = {
    errno.ENETUNREACH: "no route",
    errno.EHOSTUNREACH: "no route",
    errno.EAFNOSUPPORT: "no IPv6",
    errno.EADDRNOTAVAIL: "no source address",
    errno.EPERM: "not permitted",
    errno.EPROTONOSUPPORT: NO_NFTABLES,
    errno.ENODEV: "frames from neighbours need /dev/net/tun and tc-mirred(8)",
}


def evaluate(expectation: Expectation, outcome: Outcome) -> Finding:
    """Say whether the expectation was met. Other people's address translation breaks nothing."""
    found = _compare(expectation, outcome)
    if found.state is State.BROKEN and outcome.is_own:
        # Of an interface that is down, of a whole network on `lo`, or by a route alone.
        reason = f"{expectation.destination} is an address of this host"
        return Finding(expectation, State.NOT_TESTABLE, reason)
    return found


def _compare(expectation: Expectation, outcome: Outcome) -> Finding:
    if expectation.untestable:
        return Finding(expectation, State.NOT_TESTABLE, expectation.untestable)
    if outcome.errno:
        reason = _REASONS.get(
            outcome.errno, errno.errorcode.get(outcome.errno, f"error {outcome.errno}")
        )
        return Finding(expectation, State.NOT_TESTABLE, reason)
    if expectation.is_refused:
        if not outcome.address:
            return Finding(expectation, State.MET)
        return Finding(expectation, State.BROKEN, "it was let through")
    if expectation.sender is Sender.ON_LINK:
        return _evaluate_arrival(expectation, outcome)
    is_through = not expectation.captured_at and bool(outcome.address)
    is_left = is_through or expectation.excludes(outcome.interface)
    if expectation.is_transparent and not is_left:
        return _evaluate_transparent(expectation, outcome)
    if not outcome.address:
        return Finding(expectation, State.NOT_TESTABLE, "dropped before it could be seen")
    is_unchanged = (outcome.address, outcome.port) == (expectation.destination, expectation.port)
    if expectation.is_final:
        is_met = is_unchanged
    elif expectation.captured_at and not expectation.excludes(outcome.interface):
        is_met = outcome.port == expectation.captured_at and _is_local(expectation, outcome)
    else:
        is_met = is_unchanged or outcome.port not in expectation.proxy_ports
    if is_met and (wrong := _wrong_zone(expectation, outcome)):
        return Finding(expectation, State.BROKEN, wrong)
    if is_met:
        return Finding(expectation, State.MET)
    going = "unchanged" if is_unchanged else f"sent to {outcome.address} port {outcome.port}"
    return Finding(expectation, State.BROKEN, f"the connection was {going}")


def _wrong_zone(expectation: Expectation, outcome: Outcome) -> str:
    """Say in which tracking zone answers are looked for, if they are not found there.

    Of what is captured the proxy asks for the original destination, in the default zone alone.
    What the proxy sends holds its answers to captured connections, which are found only there.
    """
    by = f" by {outcome.zoned_by}" if outcome.zoned_by else ""
    if expectation.shape.is_datagram:
        if outcome.zone == expectation.zone or expectation.excludes(outcome.interface):
            return ""
        must_be = f"and must be in {expectation.zone} for its answer"
        return f"it is put into conntrack zone {outcome.zone}{by}, {must_be}"
    is_proxy = expectation.sender in (Sender.PROXY_USER, Sender.PROXY_GROUP)
    if not outcome.zone or not (expectation.captured_at or is_proxy):
        return ""
    return (
        f"it is put into conntrack zone {outcome.zone}{by}, where the proxy cannot find its"
        " original destination; exclude it there from TCP"
    )


def _evaluate_transparent(expectation: Expectation, outcome: Outcome) -> Finding:
    """Say of a packet that did not go on, or should not have, whether the proxy has got it."""
    is_gone = outcome.is_taken or (outcome.has_entered and not outcome.address)
    if is_gone and expectation.captured_at:
        return Finding(expectation, State.MET)
    if outcome.is_taken:
        text = "a transparent socket takes it, the proxy's or the application's own"
        return Finding(expectation, State.NOT_TESTABLE, text)
    if not outcome.address:
        return Finding(expectation, State.NOT_TESTABLE, "dropped before it could be seen")
    return Finding(expectation, State.BROKEN, "the connection was unchanged")


def _evaluate_arrival(expectation: Expectation, outcome: Outcome) -> Finding:
    """Say whether a captured connection arrives where a direct one does."""
    arrival = outcome.arrival
    if arrival is None or Fate.UNSEEN in arrival[:2]:
        return Finding(expectation, State.NOT_TESTABLE, "no frame was seen")
    came = f"from {arrival.source} by {arrival.interface}"
    if Fate.LOST in arrival[:2]:
        reason = f"{came} none gets past the routes of this host (reverse-path filter?)"
        return Finding(expectation, State.NOT_TESTABLE, reason)
    unknown = "something that nf_tables does not show (iptables-legacy, eBPF)"
    unknown = unknown if arrival.is_traced else "the firewall of this host"
    by = str(arrival.dropper or unknown)
    is_open = arrival.direct is Fate.ARRIVED
    if expectation.captured_at and expectation.excludes(arrival.interface):
        if outcome.port == expectation.captured_at:
            text = f"{came}, which is excluded, it arrived at port {outcome.port}"
            return Finding(expectation, State.BROKEN, text)
        return Finding(expectation, State.MET, f"{came} it is left alone: that is excluded")
    captured_at = expectation.at(arrival.interface)
    if expectation.captured_at and not captured_at:
        if outcome.port in expectation.proxy_ports:
            text = f"{came}, from a guest, it arrived at port {outcome.port}"
            return Finding(expectation, State.BROKEN, text)
        text = f"{came} it is left alone: outbound from a guest, and not listed"
        return Finding(expectation, State.MET, text)
    if not expectation.captured_at:
        if is_open:
            return Finding(expectation, State.MET, f"{came} it is let in now")
        return Finding(expectation, State.MET, f"{came} {by} drops it", closed_by=by)
    if arrival.captured is Fate.ARRIVED:
        if outcome.port != captured_at:
            text = f"{came} it arrived at port {outcome.port}"
            return Finding(expectation, State.BROKEN, text)
        if is_open:
            return Finding(expectation, State.MET)
        opened = f"{came} {by} drops it without capture"
        return Finding(expectation, State.MET, opened, closed_by=by)
    if not is_open:
        # Whom a rule by source lets in may be kept out by capture: no frame of ours is from there.
        text = f"{came} {by} drops it, captured or not (others may be let in)"
        return Finding(expectation, State.NOT_TESTABLE, text)
    text = f"{came} {by} drops it at port {captured_at}, and not without capture"
    passage = None
    is_v6 = ":" in expectation.destination
    command = firewall.mend(arrival.dropper, captured_at, is_v6=is_v6)
    if arrival.dropper is None and arrival.is_traced:
        text += f"; where that is iptables-legacy, let it in: {command}"
    if arrival.dropper is not None:
        text += f"; let it in: {command}"
        before = (each for each in arrival.passages if each.is_before(arrival.dropper))
        # What is said again there would come behind the rule that drops.
        passage = None if arrival.dropper.is_of_firewalld else next(before, None)
    return Finding(expectation, State.BROKEN, text, is_shut=True, passage=passage)


def closed_ports(findings: Iterable[Finding]) -> set[int]:
    """Give the ports that the host's firewall closes, and that capture opens or would open."""
    return {each.expectation.port for each in findings if each.closed_by}


def tested_ports(findings: Iterable[Finding]) -> set[int]:
    """Give the ports of which it is known what the host's firewall does with them."""
    return {
        each.expectation.port
        for each in findings
        if each.expectation.sender is Sender.ON_LINK and each.state is not State.NOT_TESTABLE
    }


def _is_local(expectation: Expectation, outcome: Outcome) -> bool:
    """An outbound connection is captured on loopback; an inbound one on any own address."""
    if expectation.sender is Sender.NEIGHBOUR:
        return True
    return outcome.address in ("127.0.0.1", "::1")
