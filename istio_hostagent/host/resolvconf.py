"""Whom this host asks for names: the servers of resolv.conf(5)."""

import ipaddress

# As `model.Address`, without all that comes with it: the resolver of names has this, too.
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PATH = "/etc/resolv.conf"
# The C library asks no more than three (MAXNS); others read them all.
_MOST = 16


def read_name_servers(path: str = PATH) -> tuple[Address, ...]:
    """Give their addresses, each once, in order; none where the file cannot be read."""
    found: dict[Address, None] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                words = line.split()
                if len(words) < 2 or words[0] != "nameserver":
                    continue
                try:
                    # A link-local address has the interface behind a %.
                    found[ipaddress.ip_address(words[1].partition("%")[0])] = None
                except ValueError:
                    continue
    except OSError:
        return ()
    return tuple(found)[:_MOST]
