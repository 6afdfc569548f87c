"""Which rule of the host's own firewall drops a packet, and the command that lets it in.

Not here: how the kernel tells (`host.tracing`). The command is one for the tool that made the
rule, as far as tables and chains show who that is; it is for people, and never run.
"""

from typing import NamedTuple


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

    def __str__(self) -> str:
        """Name it so that `nft -a list chain` shows it."""
        where = f"chain {self.family} {self.table} {self.chain}"
        if not self.handle:
            return f"the policy of {where}"
        rule = f" ({self.text})" if self.text else ""
        return f"rule handle {self.handle} of {where}{rule}"


def mend(dropper: Dropper, port: int) -> str:
    """Give the command that lets in what was translated to this port."""
    if dropper.table == "firewalld":
        return f"firewall-cmd --permanent --add-port={port}/tcp && firewall-cmd --reload"
    if any(chain.startswith(("ufw-", "ufw6-")) for chain in dropper.passed):
        return f"ufw allow {port}/tcp"
    if dropper.base == "INPUT" and dropper.family in ("ip", "ip6"):
        program = "iptables" if dropper.family == "ip" else "ip6tables"
        return f"{program} -I INPUT -p tcp --dport {port} -m conntrack --ctstate DNAT -j ACCEPT"
    where = f"{dropper.family} {dropper.table} {dropper.base or dropper.chain}"
    return f"nft insert rule {where} ct status dnat tcp dport {port} accept"
