"""Which rule of the host's own firewall drops or lets in a packet, and the command that mends it.

Not here: how the kernel tells (`host.tracing`), and what we may do by ourselves (`openings`). The
command is one for the tool that made the rule, as far as tables and chains show who that is; it
is for people, and never run.
"""

from typing import NamedTuple

_TRANSLATED = "-p tcp --dport {port} -m conntrack --ctstate DNAT -j ACCEPT"


class Dropper(NamedTuple):
    """A rule that drops, or the policy of a chain; `handle` 0: the policy.

    `base`: the chain that the kernel calls; `passed`: the chains of the same table on the way.
    `text`: the rule, empty where it has expressions without words.
    """

    family: str
    table: str
    chain: str
    handle: int = 0
    text: str = ""
    base: str = ""
    passed: tuple[str, ...] = ()

    @property
    def is_of_firewalld(self) -> bool:
        """Whether it is firewalld's, in either back end: it lets in what itself has translated."""
        return self.table == "firewalld" or "INPUT_dnat" in self.passed

    def __str__(self) -> str:
        """Name it so that `nft -a list chain` shows it."""
        where = f"chain {self.family} {self.table} {self.chain}"
        if not self.handle:
            return f"the policy of {where}"
        rule = f" ({self.text})" if self.text else ""
        return f"rule handle {self.handle} of {where}{rule}"


class Passage(NamedTuple):
    """A rule that lets a packet in: nothing after it in the chain that the kernel calls counts.

    `jumps`: the rules, as chain and handle, by which it came there within the table.
    """

    family: str
    table: str
    chain: str
    handle: int
    base: str = ""
    jumps: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        """Name it so that `nft -a list chain` shows it."""
        return f"rule handle {self.handle} of chain {self.family} {self.table} {self.chain}"

    def is_before(self, dropper: Dropper) -> bool:
        """Whether what is let in here never gets to where the other packet was dropped."""
        places = ((each.family, each.table, each.base) for each in (self, dropper))
        return len(set(places)) == 1


def mend(dropper: Dropper | None, port: int, *, is_v6: bool = False) -> str:
    """Give the command that lets in what was translated to this port.

    Of one that the kernel does not name: the one that helps where it is in legacy tables.
    """
    if dropper is None:
        program = "ip6tables-legacy" if is_v6 else "iptables-legacy"
        return f"{program} -I INPUT {_TRANSLATED.format(port=port)}"
    if dropper.is_of_firewalld:
        # A port that is opened there helps nothing, and its own forward port would go on without
        # us. Without this it lets in all that is translated.
        change = "s/^StrictForwardPorts=.*/StrictForwardPorts=no/"
        return f"sed -i '{change}' /etc/firewalld/firewalld.conf && firewall-cmd --reload"
    if any(chain.startswith(("ufw-", "ufw6-")) for chain in dropper.passed):
        return f"ufw allow {port}/tcp"
    if dropper.base == "INPUT" and dropper.family in ("ip", "ip6"):
        program = "iptables" if dropper.family == "ip" else "ip6tables"
        return f"{program} -I INPUT {_TRANSLATED.format(port=port)}"
    where = f"{dropper.family} {dropper.table} {dropper.base or dropper.chain}"
    return f"nft insert rule {where} ct status dnat tcp dport {port} accept"
