"""Holds new connections while one proxy takes the place of another.

A table of its own, by nft(8), beside those of others: what is redirected to a capture port is
dropped there, so that the client sends its SYN again; a refusal of such a port does not get
out. What is established goes on. Loaded by workers only. Source for the refusal: RFC 9293, 3.5.2
(a reset of a SYN carries the sequence number 0 and an acknowledgment).
"""

from collections.abc import Collection, Sequence

from . import firewallprograms

TABLE = "istio_hostagent_handover"
# A client's SYN has options, at least its MSS (RFC 9293, 3.7.1); those of our probes have none.
_NEW = "tcp flags & (fin | syn | rst | ack) == syn tcp doff > 5"
_TEXT = """
table inet {table} {{
    chain refused {{
        type filter hook output priority -110
        tcp sport {{ {tcp} }} tcp flags & (rst | ack) == (rst | ack) tcp sequence 0 drop
    }}
    chain arriving {{
        type filter hook input priority -110
{arriving}
    }}
}}
"""


def hold(ports: Sequence[int], *, held: Collection[int], mark: int | None) -> None:
    """Hold what arrives at the ports that are `held`; of all of them refusals are kept in.

    `mark`: of what is captured without translation, and held as well. Raises ToolFailed.
    """
    lines = []
    if held:
        listed = ", ".join(map(str, sorted(held)))
        lines.append(f"tcp dport {{ {listed} }} {_NEW} drop")
        lines.append(f"udp dport {{ {listed} }} drop")  # queries for names
    if mark is not None:
        lines.append(f"meta mark {mark} {_NEW} drop")
    every = ", ".join(map(str, ports))
    text = _TEXT.format(table=TABLE, tcp=every, arriving="\n".join(lines))
    begin = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
    firewallprograms.run((firewallprograms.NFT, "-f", "-"), begin + text)


def let_in() -> None:
    """Hold nothing any more; raises ToolFailed."""
    text = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"
    firewallprograms.run((firewallprograms.NFT, "-f", "-"), text)
