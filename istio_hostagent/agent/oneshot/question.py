"""What `explain` is asked. Light: the command line makes it before anything else is loaded."""

from typing import NamedTuple


class Question(NamedTuple):
    """One packet, as far as it is told; empty texts are not given.

    `destination`, `source`: addresses. With a `source` the packet comes from that other host, else
    this host sends it, and `user` and `group` are names or numbers. `interface`: by which it comes
    in or goes out. `unit`: of systemd, or the path of a control group. `is_live`: it is really
    sent, too.
    """

    protocol: str  # tcp or udp
    destination: str
    port: int
    user: str = ""
    group: str = ""
    source: str = ""
    interface: str = ""
    is_live: bool = False
    unit: str = ""
