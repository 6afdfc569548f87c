"""Which names the mesh has and their addresses: istiod's table, and how a host asks of it.

As pilot-agent does it (istio/istio pkg/dns/client/dns.go), but for answers by way of the search
domains of resolv.conf: the name that it saves to ask for is asked for next.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address

from .. import protobuf
from . import messages

# NameTable, its entries, NameInfo (istio/api networking NDS, pkg/dns/proto/nds.proto).
_TABLE = 1
_KEY, _VALUE = 1, 2
_IPS, _REGISTRY, _SHORT_NAME, _NAMESPACE, _OTHER_NAMES = 1, 2, 3, 4, 5
_KUBERNETES = "Kubernetes"

Addresses = tuple[tuple[bytes, ...], tuple[bytes, ...]]  # IPv4 and IPv6, packed


class Table:
    """The names of the mesh."""

    def __init__(self, message: bytes, namespace: str, domain: str) -> None:
        """Read a NameTable; raises ValueError.

        `namespace` is that of this host; `domain` is that of its node, and begins with it.
        """
        self._domain = domain.removeprefix(f"{namespace}.")
        self._namespace = namespace
        self._names: dict[str, Addresses] = {}
        for number, entry in protobuf.parse_bytes(message):
            if number == _TABLE:
                self._add(entry)

    def __len__(self) -> int:
        """How many names there are, each spelling once."""
        return len(self._names)

    def find(self, name: str, kind: int) -> tuple[bytes, ...] | None:
        """The addresses of a name, packed; none: there are none of this kind. None: not ours."""
        if kind not in (messages.A, messages.AAAA):
            return None
        found = self._names.get(name)
        rest = name
        while found is None and rest:
            _, _, rest = rest.partition(".")
            found = self._names.get(f"*.{rest}") if rest else None
        return None if found is None else found[kind == messages.AAAA]

    def _add(self, entry: bytes) -> None:
        host, info = "", b""
        for number, value in protobuf.parse_bytes(entry):
            if number == _KEY:
                host = value.decode(errors="replace")
            elif number == _VALUE:
                info = value
        texts: dict[int, list[str]] = {}
        for number, value in protobuf.parse_bytes(info):
            texts.setdefault(number, []).append(value.decode(errors="replace"))
        addresses = _pack(texts.get(_IPS, []))
        if not host or not any(addresses):
            return
        for name in self._spell(host, texts):
            self._names[name.lower().removesuffix(".")] = addresses

    def _spell(self, host: str, texts: dict[int, list[str]]) -> list[str]:
        """The names under which a service is asked for: of Kubernetes, also the shorter ones."""
        registry, short, namespace = (
            "".join(texts.get(number, [])[:1]) for number in (_REGISTRY, _SHORT_NAME, _NAMESPACE)
        )
        if registry != _KUBERNETES or not self._domain or not host.endswith(self._domain):
            return [host]
        label = self._domain.partition(".")[0]
        names = [host, f"{short}.{namespace}", f"{short}.{namespace}.{label}"]
        if namespace == self._namespace:
            names.append(short)
        return names + texts.get(_OTHER_NAMES, [])


def _pack(texts: list[str]) -> Addresses:
    """Those that are addresses, by version."""
    found: list[IPv4Address | IPv6Address] = []
    for text in texts:
        try:
            found.append(ip_address(text))
        except ValueError:
            continue
    v4, v6 = (tuple(each.packed for each in found if each.version == v) for v in (4, 6))
    return v4, v6
