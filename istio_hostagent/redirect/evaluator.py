"""What becomes of a packet by rules of ours: a model of what the kernel makes of them.

It knows typed rules, and every field (`packetfields`) and action of `model` by a table; chains of
all tables are met in the order in which the kernel calls them. Not here: what others' rules do,
what a result means for people (`explanation`), routes: whose addresses and which interfaces are
given.
tests/netns/test_evaluator.py holds this against the kernel.
Sources: net/netfilter/{nf_tables_core,nft_meta,nft_ct,nf_nat_core,nf_conntrack_proto_tcp}.c.
"""

import enum
from collections.abc import Callable, Collection, Iterator, Sequence

from . import expressions, model, names, packetfields, ranges
from .model import Action, Field, Operator
from .packets import Address, End, Packet, Step, Tracking, Way, is_local

PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)  # NF_INET_*
# NF_IP_PRI_CONNTRACK: chains before it see no connection.
_TRACKING_PRIORITY = -200
# NF_IP_PRI_NAT_DST: all chains of type nat are called from here, in the order of their priorities.
_NAT_PRIORITY = -100
_NAT_HOOKS = (PREROUTING, OUTPUT)
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}
_LOOPBACK_INTERFACE = "lo"
_VERSIONS = {"ip": 4, "ip6": 6}


def follow(
    tables: Sequence[model.Table],
    packet: Packet,
    own: Collection[Address],
    *,
    until: int | None = None,
) -> Way:
    """Lead a packet through the chains of all hooks that it meets.

    `own`: the addresses of this host beside those of loopback. `until`: at the first hook alone,
    chains before this priority. Raises KeyError for a field, an action, a set or a chain that is
    not known.
    """
    walk = _Walk(packet, own)
    for hook in _hooks(walk):
        walk.pass_hook(tables, hook, until)
        if walk.end is not End.PASSED or until is not None:
            break
    return walk.result()


def enter_chain(
    table: model.Table, chain: str, packet: Packet, own: Collection[Address], hook: int = OUTPUT
) -> Way:
    """Lead a packet through one chain alone, as if it were called there; see `follow`.

    It is tracked by then, and nobody has decided on its translation.
    """
    walk = _Walk(packet, own)
    walk.hook, walk.is_tracked = hook, True
    decider = walk.pass_chain(table, chain)
    return walk.result()._replace(decider=decider)


def _hooks(walk: "_Walk") -> Iterator[int]:
    """The hooks in the order of the kernel; what the first make of it tells the next ones."""
    if not walk.packet.iif:
        yield OUTPUT
        is_here = is_local(walk.packet.address, walk.own)
        if is_here:
            walk.packet = walk.packet._replace(oif=_LOOPBACK_INTERFACE)
        yield POSTROUTING
        if not is_here:
            return
        # It comes in by `lo`, where its socket is not looked up any more.
        walk.packet = walk.packet._replace(
            iif=_LOOPBACK_INTERFACE, oif="", uid=None, gid=None, groups=()
        )
    yield PREROUTING
    if is_local(walk.packet.address, walk.own):
        yield INPUT
    else:
        yield FORWARD
        yield POSTROUTING


class _Next(enum.Enum):
    """What comes behind a rule that applies."""

    RULE = enum.auto()
    CALLER = enum.auto()  # the rule behind the one that called this chain
    BASE_CHAIN = enum.auto()  # the packet has passed this base chain
    NOTHING = enum.auto()


class _Walk:
    """A packet on its way."""

    def __init__(self, packet: Packet, own: Collection[Address]) -> None:
        self.packet = packet
        self.own = own
        self.hook = 0
        self.is_tracked = False
        self.end = End.PASSED
        self._is_sent = not packet.iif
        self._is_decided = False  # where its connection is translated to
        self._captured_at = 0
        self._steps: list[Step] = []
        self._decider: Step | None = None
        # Of the base chain that it is in:
        self._table = model.Table("", (), ())
        self._decided: Step | None = None
        self._callers: list[Step] = []

    @property
    def _is_back(self) -> bool:
        """Whether it has been sent and comes in at this host again."""
        return self._is_sent and bool(self.packet.iif)

    def result(self) -> Way:
        """What became of it so far."""
        return Way(self.packet, self.end, tuple(self._steps), self._decider, self._captured_at)

    def pass_hook(
        self, tables: Sequence[model.Table], hook: int, until: int | None = None
    ) -> None:
        """Meet every base chain of a hook, or those before this priority."""
        self.hook = hook
        found = [
            (_effective(each.hook), each.hook, table, each)
            for table in tables
            for each in table.chains
            if each.hook is not None and each.hook.number == hook
        ]
        for at, where, table, chain in sorted(found, key=lambda each: each[0]):
            if until is not None and at[0] >= until:
                return
            self.is_tracked = self.is_tracked or at[0] > _TRACKING_PRIORITY
            is_nat = where.kind == "nat"
            if is_nat and (self._is_decided or self.packet.state is not Tracking.NEW):
                continue
            before = len(self._steps), self._captured_at
            decided = self.pass_chain(table, chain.name)
            if self.end is End.PASSED and not where.policy:
                self.end = End.DROPPED
            is_taken = self.end is not End.PASSED or self._captured_at != before[1]
            # Who sends it to this host itself has decided at the first hook.
            is_choosing = (is_nat or _is_to_proxy(table, chain)) and not self._is_back
            # Behind a chain that chose, one that does not know the packet chooses nothing.
            is_known = self._decider is None or len(self._steps) - before[0] > 1
            if is_taken or (is_choosing and is_known and not before[1]):
                self._decider = decided
            if self.end is not End.PASSED:
                return
        # Where nobody translates, that is decided too (nf_nat_alloc_null_binding()).
        self._is_decided = self._is_decided or hook in _NAT_HOOKS

    def pass_chain(self, table: model.Table, name: str) -> Step | None:
        """Meet the rules of a base chain; gives the step that decided."""
        self._table, self._decided, self._callers = table, None, []
        self._pass_rules(name)
        return self._decided

    def _pass_rules(self, name: str) -> _Next:
        (chain,) = (each for each in self._table.chains if each.name == name)
        last = 0
        for number, rule in enumerate(chain.rules, 1):
            if not self._applies(rule):
                continue
            last = number
            step = Step(self._table.name, name, number, rule, self.hook)
            self._steps.append(step)
            self._callers.append(step)
            following = ACTIONS[rule.verdict.action](self, rule.verdict)
            self._callers.pop()
            if following is not _Next.RULE:
                return following
        # A rule that hands on as the last one, or in a base chain, leaves the decision to others.
        is_handed_on = last == len(chain.rules) or not self._callers
        if not (last and is_handed_on):
            self._decided = Step(self._table.name, name, 0, None, self.hook)
        return _Next.CALLER

    def _applies(self, rule: model.Rule) -> bool:
        # A reset is an answer to TCP alone; expressions.compile_rule() asks for it.
        if rule.verdict.action is Action.REJECT and self.packet.protocol != names.TCP:
            return False
        # Without a socket the rule ends there (nft_tproxy_eval_v4()).
        if rule.verdict.action is Action.TPROXY and not self.packet.is_awaited:
            return False
        if (
            rule.verdict.action is Action.RESTORE_MARK
            and packetfields.FIELDS[Field.CT_MARK](self) is None
        ):
            return False
        return all(map(self._holds, rule.matches))

    def _holds(self, match: model.Match) -> bool:
        value = packetfields.FIELDS[match.field](self)
        if match.field is Field.CONTROL_GROUP:
            value = self.packet.group_at(match.level)
        if value is None:
            return False  # the packet has no such field: whatever is asked, the rule ends here
        if match.prefix:
            rest = expressions.LOADS[match.field].size * 8 - match.prefix
            value = int(value) >> rest << rest
        if match.operator in (Operator.IN, Operator.NOT_IN):
            (content,) = (each.ranges for each in self._table.sets if each.name == match.value)
            return ranges.contains(content, int(value)) is (match.operator is Operator.IN)
        return _equals(value, match.value) is (match.operator is Operator.EQ)

    # -- actions --------------------------------------------------------------------------------

    def leave(self, _verdict: model.Verdict) -> _Next:
        """RETURN."""
        self._decided = self._callers[-1]
        return _Next.CALLER

    def jump(self, verdict: model.Verdict) -> _Next:
        """JUMP: at its end the next rule here."""
        following = self._pass_rules(str(verdict.target))
        return _Next.RULE if following is _Next.CALLER else following

    def goto(self, verdict: model.Verdict) -> _Next:
        """GOTO: at its end the caller of this chain goes on."""
        return self._pass_rules(str(verdict.target))

    def set_zone(self, verdict: model.Verdict) -> _Next:
        """ZONE: the first one counts, and only before tracking (nft_ct_set_zone_eval()).

        Not modelled: behind it, a packet that tracking has found invalid would get a blank entry,
        which whoever translates then takes for a connection.
        """
        if not self.is_tracked and not self.packet.zone:
            self.packet = self.packet._replace(zone=int(verdict.target))
        return _Next.RULE

    def redirect(self, verdict: model.Verdict) -> _Next:
        """REDIRECT: to loopback what this host sends, else to an address of the interface.

        Which one that is, of several, is not known here: one of this host stays as it is.
        """
        self._captured_at = int(verdict.target)
        is_here = (
            is_local(self.packet.address, self.own) and self.packet.iif != _LOOPBACK_INTERFACE
        )
        if self.hook == OUTPUT or not is_here:
            self._translate(_LOOPBACK[self.packet.address.version], self._captured_at)
        else:
            self._translate(self.packet.destination, self._captured_at)
        return self._decide()

    def hand_over(self, verdict: model.Verdict) -> _Next:
        """TPROXY: the socket gets it, with its destination as it is."""
        self._captured_at = int(verdict.target)
        self.packet = self.packet._replace(has_proxy_socket=not self.packet.is_bridged)
        return self._name_decider(_Next.BASE_CHAIN)

    def save_mark(self, _verdict: model.Verdict) -> _Next:
        """SAVE_MARK: where there is a connection (nft_ct_set_eval())."""
        if packetfields.has_entry(self):
            self.packet = self.packet._replace(connection_mark=self.packet.mark)
        return _Next.RULE

    def restore_mark(self, _verdict: model.Verdict) -> _Next:
        """RESTORE_MARK; the route that it may change is not looked up."""
        mark = packetfields.FIELDS[Field.CT_MARK](self)
        self.packet = self.packet._replace(mark=int(mark or 0))
        return _Next.RULE

    def keep(self, verdict: model.Verdict) -> _Next:
        """KEEP; a packet of the other family is not meant (nft_nat_inet_eval())."""
        is_meant = self.packet.address.version == _VERSIONS[str(verdict.target)]
        return self._decide() if is_meant else _Next.RULE

    def reject(self, _verdict: model.Verdict) -> _Next:
        """REJECT."""
        self.end = End.REJECTED
        return self._decide(_Next.NOTHING)

    def drop(self, _verdict: model.Verdict) -> _Next:
        """DROP."""
        self.end = End.DROPPED
        return self._decide(_Next.NOTHING)

    def _translate(self, address: str, port: int) -> None:
        before = (self.packet.destination, self.packet.port)
        if before != (address, port):
            asked_for = self.packet.asked_for or before
            self.packet = self.packet._replace(destination=address, port=port, asked_for=asked_for)

    def _decide(self, following: _Next = _Next.BASE_CHAIN) -> _Next:
        """Where the connection goes is decided."""
        self._is_decided = True
        return self._name_decider(following)

    def _name_decider(self, following: _Next) -> _Next:
        """Name the rule that decided: where a chain has but one, the rule that led there."""
        *callers, last = self._callers
        (chain,) = (each for each in self._table.chains if each.name == last.chain)
        self._decided = callers[-1] if callers and len(chain.rules) == 1 else last
        return following


def _effective(hook: model.Hook) -> tuple[int, int]:
    """When a base chain is called; chains of type nat only for translations of destinations."""
    if hook.kind != "nat":
        return (hook.priority, 0)
    if hook.number not in _NAT_HOOKS:
        raise KeyError(f"a nat chain at hook {hook.number}")
    return (_NAT_PRIORITY, hook.priority)


def _is_to_proxy(table: model.Table, base: model.Chain) -> bool:
    """Whether a base chain, or one that it calls itself, hands packets over to the proxy."""
    targets = {rule.verdict.target for rule in base.rules}
    called = (each for each in table.chains if each is base or each.name in targets)
    return any(rule.verdict.action is Action.TPROXY for each in called for rule in each.rules)


def _equals(value: int | str, wanted: int | str) -> bool:
    if isinstance(value, str) and isinstance(wanted, str) and wanted.endswith("*"):
        return value.startswith(wanted[:-1])
    return value == wanted


# What a verdict does, and what comes behind it.
ACTIONS: dict[Action, Callable[[_Walk, model.Verdict], _Next]] = {
    Action.RETURN: _Walk.leave,
    Action.JUMP: _Walk.jump,
    Action.GOTO: _Walk.goto,
    Action.REDIRECT: _Walk.redirect,
    Action.KEEP: _Walk.keep,
    Action.REJECT: _Walk.reject,
    Action.DROP: _Walk.drop,
    Action.ZONE: _Walk.set_zone,
    Action.TPROXY: _Walk.hand_over,
    Action.SAVE_MARK: _Walk.save_mark,
    Action.RESTORE_MARK: _Walk.restore_mark,
}
