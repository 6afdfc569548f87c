"""Which connections are probed, and what a configuration says of each.

Not here: what an expectation is and whether it was met (`expectations`), sending (`host.probing`).
They follow from the configuration alone, never from the rules: so a mistake of `policy` shows like
one of anybody else.
"""

from collections.abc import Iterable, Iterator

from ..config import model as config
from . import exemptions, names, ranges, targets
from .expectations import Expectation, Sender, Shape

# Of each IP version so many ports are followed up to the proxy at one own address, and one port
# each at so many further ones.
MAX_ARRIVALS, MAX_FURTHER = 32, 4
# Of a range these stand for others: what a host serves.
_SERVED = (80, 443, 8080, 8443, 3000, 5000, 8000, 9000, 9080, 9090, 3306, 5432)
# Of the captured inbound ports so many are tried on their way from the proxy to the application.
MAX_HANDED_ON = 8
# Of groups and of further users of the proxy so many are tried, and of name servers.
MAX_OWNERS, MAX_SERVERS = 8, 4
# Users and groups that no key names are chosen from here, downwards.
_ORDINARY_ID = 65534  # user and group of an application, as its sockets have them


def build_expectations(
    redirection: config.Redirection, facts: config.HostFacts
) -> tuple[Expectation, ...]:
    """Give every expectation once; none when the rules are not ours to make."""
    if not redirection.is_managed:
        return ()
    owners = redirection.owners
    if owners.groups is not None and not set(owners.groups) - _groups_of_proxy(owners, facts):
        # What the proxy sends is final: there is nobody left.
        redirection = redirection._replace(owners=owners._replace(groups=()))
    # What guests send is captured whatever the groups are.
    sets = of_guests = exemptions.build_sets(redirection, facts)
    if not redirection.captures_outbound:
        redirection = redirection._replace(
            outbound=config.CidrSet(), outbound_ports=config.PortSet()
        )
        sets = exemptions.build_sets(redirection, facts)
    found: list[Expectation] = []
    for version in (4, 6) if facts.has_ipv6 else (4,):
        chosen = targets.Destinations(redirection, facts, sets, version)
        maker = _Maker(redirection, facts, sets, chosen)
        found += maker.outbound()
        found += maker.exempt()
        found += maker.owners()
        found += maker.queries()
        found += maker.query_answers()
        found += maker.own()
        found += maker.inbound()
        found += maker.answers()
        found += maker.private()
        found += maker.arrivals(of_guests)
    if unit := config.find_own_unit(facts):
        found = [_in_unit(each, unit) for each in found]
    names = redirection.excluded_interfaces
    found = [each._replace(excluded_interfaces=names) for each in found] if names else found
    return tuple({expectation[1:]: expectation for expectation in reversed(found)}.values())[::-1]


def _in_unit(made: Expectation, unit: str) -> Expectation:
    """Sockets are made in the control group of this process: what they send may be left alone."""
    is_captured = made.captured_at and made.sender in (Sender.APPLICATION, Sender.ROOT)
    why = f"sent from {unit}, which is excluded"
    return made._replace(untestable=why) if is_captured else made


class _Maker:
    """Makes the expectations of one IP version."""

    def __init__(
        self,
        redirection: config.Redirection,
        facts: config.HostFacts,
        sets: exemptions.Sets,
        chosen: targets.Destinations,
    ) -> None:
        self._redirection = redirection
        self._facts = facts
        self._sets = sets
        self._chosen = chosen
        self._ports = (redirection.outbound_capture_port, redirection.inbound_capture_port)
        self._uid = _captured_uid(redirection.owners, facts)
        self._gid = _captured_gid(redirection.owners, facts)
        self._is_transparent = redirection.is_transparent
        self._is_classic = redirection.generation is not config.Generation.CURRENT
        listed = (*sets.named_ports, *sets.ranged_ports)
        # One that no list mentions, so that the address alone decides.
        self._port = _first_port(ranges.merge((*sets.exempt_ports, *listed)))
        named_or_exempt = ranges.merge((*sets.exempt_ports, *sets.named_ports))
        self._special_port = _first_port(named_or_exempt)
        self._captured_ports = targets.ends(ranges.subtract(sets.inbound, sets.inbound_exempt))

    def _out(
        self,
        text: str,
        address: int,
        port: int,
        captured_at: int,
        sender: Sender = Sender.APPLICATION,
        source: str = "",
    ) -> Expectation:
        is_of_any = captured_at and sender is Sender.APPLICATION
        loopback = exemptions.LOOPBACK_V4 if self._chosen.version == 4 else exemptions.LOOPBACK_V6
        is_known = address in self._chosen.own or ranges.contains(loopback, address)
        return Expectation(
            text,
            sender,
            self._chosen.text(address),
            port,
            captured_at,
            self._redirection.answer_ports,
            source,
            uid=self._uid if is_of_any else -1,
            gid=self._gid if is_of_any else -1,
            is_elsewhere=not is_known,
        )

    def outbound(self) -> Iterator[Expectation]:
        """What lists of destinations and ports say."""
        at = self._ports[0]
        version = self._chosen.version
        if self._port:
            for first, last in targets.spread(self._redirection.outbound.of_version(version)):
                address = self._chosen.captured_in(first, last)
                if address is not None:
                    network = config.to_network(version, first, last)
                    yield self._out(f"outbound {network} is captured", address, self._port, at)
            if self._redirection.outbound.is_all:
                for address in self._chosen.captured():
                    name = self._chosen.text(address)
                    text = f"outbound {name} is captured, as everything is"
                    yield self._out(text, address, self._port, at)
            else:
                for address in self._chosen.unlisted():
                    text = f"outbound {self._chosen.text(address)}, not listed, is left alone"
                    yield self._out(text, address, self._port, 0)
            for first, last in self._chosen.family.named_loopback:
                for address in sorted({first, last}):
                    text = f"outbound {self._chosen.text(address)}, listed, is captured"
                    yield self._out(text, address, self._port, at)
        for first, last in targets.spread(self._redirection.outbound_exclude.of_version(version)):
            text = f"outbound {config.to_network(version, first, last)} is excluded"
            yield self._out(text, min(first + 1, last), self._special_port or 80, 0)
        yield from self._listed_ports()

    def _listed_ports(self) -> Iterator[Expectation]:
        """Ports that are captured or exempt whatever the address."""
        anywhere = [*self._chosen.unlisted(), *self._chosen.captured()][:1]
        exempt = self._sets.exempt_ports
        for address in anywhere:
            listed = ranges.merge((*self._sets.named_ports, *self._sets.ranged_ports))
            for port in targets.ends(ranges.subtract(listed, exempt)):
                text = f"outbound port {port} is captured whatever the address"
                is_query = port == names.PORT and self._is_of_names(address)
                at = self._redirection.dns.port if is_query else self._ports[0]
                yield self._out(text, address, port, at)
        for address in (self._chosen.captured() or anywhere)[:1]:
            for port in targets.ends(exempt):
                yield self._out(f"outbound port {port} is excluded", address, port, 0)

    def _is_of_names(self, address: int) -> bool:
        """Whether what is sent to port 53 there is a query that is captured."""
        dns = self._redirection.dns
        return dns.is_captured and (dns.is_every_server or address in self._servers)

    @property
    def _servers(self) -> set[int]:
        return exemptions.name_servers(self._redirection, self._facts, self._chosen.version)

    def exempt(self) -> Iterator[Expectation]:
        """Who is captured, who is not, and what is captured only if it is named."""
        for address in self._chosen.captured()[:1] if self._port else []:
            name = self._chosen.text(address)
            at = self._ports[0]
            if self._is_root_captured:
                text = f"outbound {name} is captured for root too"
                yield self._out(text, address, self._port, at, Sender.ROOT)
            else:
                text = f"outbound {name} is left alone for root"
                yield self._out(text, address, self._port, 0, Sender.ROOT)
            for sender in (Sender.PROXY_USER, Sender.PROXY_GROUP):
                text = f"outbound {name} is left alone for the {sender.value}"
                yield self._out(text, address, self._port, 0, sender)
        metadata = exemptions.METADATA_V4 if self._chosen.version == 4 else exemptions.METADATA_V6
        if self._special_port and ranges.contains(self._chosen.family.never, metadata):
            port = self._port or self._special_port
            text = f"metadata service {self._chosen.text(metadata)} is left alone"
            yield self._out(text, metadata, port, 0)

    @property
    def _is_root_captured(self) -> bool:
        owners = self._redirection.owners
        is_of_proxy = 0 in owners.proxy_uids or 0 in owners.proxy_gids
        is_left_alone = owners.exempts_root or 0 in owners.users_exclude
        return owners.captures(0) and not is_left_alone and not is_of_proxy

    def owners(self) -> Iterator[Expectation]:
        """Users and groups that are captured or not, and further ones of the proxy."""
        owners = self._redirection.owners
        at = self._ports[0]
        for address in self._chosen.captured()[:1] if self._port else []:
            name = self._chosen.text(address)
            of_proxy = _groups_of_proxy(owners, self._facts)
            for gid in sorted({*(owners.groups or ())} - of_proxy)[:MAX_OWNERS]:
                text = f"outbound {name} is captured for group {gid}"
                yield self._out(text, address, self._port, at)._replace(gid=gid)
            others = set(owners.groups_exclude) if owners.groups is None else {_other_gid(owners)}
            for gid in sorted(others)[:MAX_OWNERS]:
                text = f"outbound {name} is left alone for group {gid}"
                yield self._out(text, address, self._port, 0)._replace(gid=gid)
            for uid in owners.proxy_uids[:MAX_OWNERS]:
                text = f"outbound {name} is left alone for user {uid}, who is the proxy's"
                yield self._out(text, address, self._port, 0)._replace(uid=uid)
            for uid in owners.users_exclude[:MAX_OWNERS]:
                text = f"outbound {name} is left alone for user {uid}"
                yield self._out(text, address, self._port, 0)._replace(uid=uid)
            for gid in owners.proxy_gids[:MAX_OWNERS]:
                text = f"outbound {name} is left alone for group {gid}, which is the proxy's"
                yield self._out(text, address, self._port, 0)._replace(gid=gid)

    def queries(self) -> Iterator[Expectation]:
        """Queries for names, by UDP and to captured servers by TCP."""
        dns = self._redirection.dns
        if not dns.is_captured or self._redirection.owners.groups == ():
            return
        listed = self._servers
        servers = sorted(listed) or [self._chosen.elsewhere] * dns.is_every_server
        # One of a single link is not reached without naming that.
        for server in [each for each in servers if each >> 118 != 0x3FA][:MAX_SERVERS]:
            name = self._chosen.text(server)
            text = f"a query to {name} is captured"
            yield self._query(text, server, dns.port)
            text = f"a query by TCP to {name} is captured"
            yield self._out(text, server, names.PORT, dns.port)
            text = f"a query of the proxy to {name} is left alone"
            yield self._query(text, server, 0, Sender.PROXY_USER)
            for uid in dns.resolver_uids[:1]:
                text = f"a query of user {uid}, a resolver, to {name} is left alone"
                yield self._query(text, server, 0)._replace(uid=uid)
            for uid in self._redirection.owners.users_exclude[:1]:
                text = f"a query of user {uid} to {name} is left alone"
                yield self._query(text, server, 0)._replace(uid=uid)
        if not dns.is_every_server and self._chosen.elsewhere not in listed:
            text = f"a query to {self._chosen.text(self._chosen.elsewhere)} is left alone"
            made = self._query(text, self._chosen.elsewhere, 0)
            yield made._replace(zone=0)

    def query_answers(self) -> Iterator[Expectation]:
        """Answers to captured queries: on their port the proxy's alone, and in its zone."""
        dns = self._redirection.dns
        if not dns.is_captured:
            return
        where = f"the port for queries {dns.port} (IPv{self._chosen.version})"
        shape = Shape.ANSWER_DATAGRAM
        text = f"an answer of an application on {where} is refused"
        yield self._raw(text, Sender.APPLICATION, dns.port, shape, is_refused=True)
        text = f"an answer of the proxy on {where} is taken for that of the name server"
        made = self._raw(text, Sender.PROXY_USER, dns.port, shape)
        yield made._replace(zone=names.CAPTURED_ZONE)

    def _query(
        self, text: str, server: int, at: int, sender: Sender = Sender.APPLICATION
    ) -> Expectation:
        made = self._out(text, server, names.PORT, at, sender)
        zone = names.CAPTURED_ZONE if at else names.OWN_ZONE
        return made._replace(shape=Shape.DATAGRAM, zone=zone)

    def own(self) -> Iterator[Expectation]:
        """Connections of this host to itself."""
        is_v4 = self._chosen.version == 4
        localhost = exemptions.LOCALHOST_V4 if is_v4 else exemptions.LOCALHOST_V6
        passthrough = "127.0.0.6" if is_v4 else "::6"
        port = self._special_port or 80
        if not ranges.contains(self._chosen.family.named_loopback, localhost):
            text = f"an application reaches {self._chosen.text(localhost)} directly"
            yield self._out(text, localhost, port, 0)
        text = f"the proxy reaches {self._chosen.text(localhost)} directly"
        yield self._out(text, localhost, port, 0, Sender.PROXY_USER)
        for address in self._chosen.own[:1]:
            name = self._chosen.text(address)
            if self._is_classic:
                text = f"own address {name} is captured"
                yield self._out(text, address, port, self._ports[0])
            else:
                text = f"an application reaches own address {name} directly"
                yield self._out(text, address, port, 0)
            for handed_on in sorted({port, *self._captured_ports[:MAX_HANDED_ON]}):
                text = (
                    f"what the proxy hands on from {passthrough} to port {handed_on} arrives there"
                )
                made = self._out(text, address, handed_on, 0, Sender.PROXY_USER, passthrough)
                yield made._replace(is_final=True)
            tunnel = self._redirection.tunnel_port
            text = f"the proxy's tunnel to own address {name} is left alone"
            yield self._out(text, address, tunnel, 0, Sender.PROXY_USER)
            if self._special_port:
                for sender in (Sender.PROXY_USER, Sender.PROXY_GROUP):
                    text = f"own address {name} is captured for the {sender.value}"
                    at = self._ports[0] if self._is_classic else self._ports[1]
                    yield self._out(text, address, port, at, sender)

    def inbound(self) -> Iterator[Expectation]:
        """Connections from outside."""
        is_v4 = self._chosen.version == 4
        localhost = exemptions.LOCALHOST_V4 if is_v4 else exemptions.LOCALHOST_V6
        address = (*self._chosen.own, localhost)[0]
        family = f"IPv{self._chosen.version}"
        inbound, exempt = self._sets.inbound, self._sets.inbound_exempt
        captured = ranges.subtract(inbound, exempt)
        left = ranges.subtract(exemptions.ALL_PORTS, captured)
        for port in targets.ends(captured):
            text = f"inbound port {port} is captured ({family})"
            made = self._in(text, address, port, self._ports[1])
            yield made._replace(is_transparent=self._is_transparent)
        unlisted = ranges.subtract(left, exempt)
        direct = {*targets.ends(exempt), *([_middle(unlisted)] if unlisted else [])}
        own = {*self._redirection.answer_ports, self._redirection.tunnel_port}
        for port in sorted(direct):
            made = self._in(f"inbound port {port} is left alone ({family})", address, port, 0)
            # Where the proxy listens itself it is the one that gets the packet.
            yield made._replace(is_transparent=self._is_transparent and port not in own)
        through = self._chosen.elsewhere
        if through not in self._chosen.own:
            name = self._chosen.text(through)
            for port in targets.ends(captured)[:1]:
                text = f"a connection through this host to {name} port {port} is left alone"
                yield self._in(text, through, port, 0)._replace(is_elsewhere=True)

    def answers(self) -> Iterator[Expectation]:
        """Answers to new connections: on a capture port the proxy's alone."""
        family = f"IPv{self._chosen.version}"
        for port in dict.fromkeys(self._redirection.answer_ports):
            where = f"capture port {port} ({family})"
            text = f"an answer of an application on {where} is refused"
            yield self._raw(text, Sender.APPLICATION, port, Shape.ANSWER, is_refused=True)
            text = f"an answer of the proxy on {where} is left alone"
            yield self._raw(text, Sender.PROXY_USER, port, Shape.ANSWER)
        first = self._ports[0]
        is_root = 0 in self._redirection.owners.proxy_uids
        for sender in (Sender.PROXY_GROUP,) if is_root else (Sender.ROOT, Sender.PROXY_GROUP):
            text = f"an answer of the {sender.value} on capture port {first} ({family}) is refused"
            text = text.replace("the root", "root")
            yield self._raw(text, sender, first, Shape.ANSWER, is_refused=True)
        elsewhere = _first_port(ranges.singles(sorted(self._redirection.answer_ports)))
        text = f"an answer of an application on port {elsewhere} ({family}) is left alone"
        yield self._raw(text, Sender.APPLICATION, elsewhere, Shape.ANSWER)

    def private(self) -> Iterator[Expectation]:
        """The proxy's private ports."""
        localhost = self._localhost
        own = (*self._chosen.own, localhost)[0]
        ports = self._redirection.private_ports
        for port in ports:
            text = f"an application is refused at {self._chosen.text(localhost)} port {port}"
            yield self._private(text, localhost, port, Sender.APPLICATION, is_refused=True)
            text = f"an application is refused at own address {self._chosen.text(own)} port {port}"
            yield self._private(text, own, port, Sender.APPLICATION, is_refused=True)
        senders = [Sender.PROXY_USER]
        if not ranges.contains(self._chosen.family.named_loopback, localhost):
            senders.append(Sender.ROOT)
        for port in ports[:1]:
            where = f"{self._chosen.text(localhost)} port {port}"
            text = f"the proxy group is refused at {where}"
            yield self._private(text, localhost, port, Sender.PROXY_GROUP, is_refused=True)
            for sender in senders:
                text = f"the {sender.value} reaches {where}".replace("the root", "root")
                yield self._private(text, localhost, port, sender)

    @property
    def _localhost(self) -> int:
        is_v4 = self._chosen.version == 4
        return exemptions.LOCALHOST_V4 if is_v4 else exemptions.LOCALHOST_V6

    def _private(
        self, text: str, address: int, port: int, sender: Sender, *, is_refused: bool = False
    ) -> Expectation:
        found = self._out(text, address, port, 0, sender)
        return found._replace(shape=Shape.SYN, is_refused=is_refused)

    def _raw(
        self, text: str, sender: Sender, port: int, shape: Shape, *, is_refused: bool = False
    ) -> Expectation:
        found = self._out(text, self._localhost, port, 0, sender)
        return found._replace(shape=shape, is_refused=is_refused)

    def arrivals(self, of_guests: exemptions.Sets) -> Iterator[Expectation]:
        """Captured connections from outside, followed up to the proxy.

        Those that are not translated meet the same rules of a firewall as direct ones. An own
        address may be on the interface of guests, where a connection to it is outbound.
        """
        if self._is_transparent:
            return
        captured = ranges.subtract(self._sets.inbound, self._sets.inbound_exempt)
        served = [port for port in _SERVED if ranges.contains(captured, port)]
        ports = list(dict.fromkeys((*self._named(captured), *served, *self._captured_ports)))
        for address in self._chosen.own[: 1 + MAX_FURTHER]:
            name = self._chosen.text(address)
            for port in ports[:MAX_ARRIVALS]:
                text = f"a connection to {name} port {port} arrives at the proxy"
                at = self._ports[1]
                yield Expectation(
                    text,
                    Sender.ON_LINK,
                    name,
                    port,
                    at,
                    self._redirection.answer_ports,
                    guest_interfaces=self._redirection.guest_interfaces,
                    from_guest_at=self._from_guest_at(of_guests, address, port),
                )
            for port in self._redirection.inbound_closed[:MAX_ARRIVALS]:
                text = f"port {port} of {name} stays closed, and is not captured"
                yield Expectation(
                    text, Sender.ON_LINK, name, port, 0, self._redirection.answer_ports
                )
            del ports[1:]

    def _from_guest_at(self, sets: exemptions.Sets, address: int, port: int) -> int:
        """Where a connection of a guest to an own address arrives; 0: it is left alone."""
        if not self._redirection.guest_interfaces:
            return 0
        family = sets.v4 if self._chosen.version == 4 else sets.v6
        if ranges.contains(sets.exempt_ports, port) or ranges.contains(family.exclude, address):
            return 0
        is_listed = ranges.contains(sets.ranged_ports, port) or ranges.contains(
            family.include, address
        )
        is_captured = ranges.contains(sets.named_ports, port) or (
            is_listed and not ranges.contains(family.never, address)
        )
        return self._ports[0] if is_captured else 0

    def _named(self, captured: ranges.Ranges) -> list[int]:
        return sorted(
            port for port in self._redirection.inbound.named if ranges.contains(captured, port)
        )

    def _in(self, text: str, address: int, port: int, captured_at: int) -> Expectation:
        destination = self._chosen.text(address)
        return Expectation(
            text, Sender.NEIGHBOUR, destination, port, captured_at, self._redirection.answer_ports
        )


def _captured_uid(owners: config.Owners, facts: config.HostFacts) -> int:
    """A user of an application who is captured; -1: the usual one is."""
    taken = {facts.proxy_uid, *owners.proxy_uids, *owners.users_exclude}
    if _ORDINARY_ID not in taken - {facts.proxy_uid}:
        return -1
    return next(uid for uid in range(_ORDINARY_ID - 1, 0, -1) if uid not in taken)


def _groups_of_proxy(owners: config.Owners, facts: config.HostFacts) -> set[int]:
    return {facts.proxy_gid, *owners.proxy_gids}


def _captured_gid(owners: config.Owners, facts: config.HostFacts) -> int:
    """A group of an application that is captured; -1: the usual one is."""
    of_proxy = _groups_of_proxy(owners, facts)
    if owners.groups is not None:
        return min(set(owners.groups) - of_proxy, default=-1)
    if owners.captures(_ORDINARY_ID) and _ORDINARY_ID not in owners.proxy_gids:
        return -1
    taken = of_proxy.union(owners.groups_exclude)
    return next(gid for gid in range(_ORDINARY_ID - 1, 0, -1) if gid not in taken)


def _other_gid(owners: config.Owners) -> int:
    """A group that is not listed."""
    groups = {*(owners.groups or ()), *owners.proxy_gids}
    return next(gid for gid in range(_ORDINARY_ID, 0, -1) if gid not in groups)


def _first_port(taken: Iterable[tuple[int, int]]) -> int:
    """Give 80, 443 or the first other port that is not taken; 0 if all are."""
    free = ranges.subtract(((1, 65535),), ranges.merge(taken))
    for port in (80, 443):
        if ranges.contains(free, port):
            return port
    return free[0][0] if free else 0


def _middle(port_ranges: ranges.Ranges) -> int:
    """Give a port within the widest range."""
    first, last = max(port_ranges, key=lambda each: each[1] - each[0])
    return (first + last) // 2
