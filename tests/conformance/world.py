"""The host of a configuration with what is around it, and what its packets meet.

It knows of the product only `python3 -m istio_hostagent apply` and the two files that it reads;
what knows its model is judge.py.
"""

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.conformance import judge, model
from tests.conformance.model import Configuration, Packet, Place
from tests.lab import groups, netns
from tests.lab.host import CHECKOUT, PYTHON

STATION = Path(__file__).parent / "station.py"
# Far more than a configuration takes: nothing in here waits without a limit of its own.
LIMIT_S = 300.0
# What istioctl puts into cluster.env; the rest is what an operator writes into sidecar.env.
CLUSTER_KEYS = (
    "ISTIO_SERVICE_CIDR",
    "ISTIO_INBOUND_PORTS",
    "ISTIO_LOCAL_EXCLUDE_PORTS",
    "ISTIO_META",
)

Apply = Callable[["World", Configuration], subprocess.CompletedProcess[str]]


class World:
    """The namespaces of a configuration, and its files. Made by `make`."""

    def __init__(
        self,
        spaces: dict[Place, netns.Namespace],
        directory: Path,
        units: groups.ControlGroup | None = None,
    ) -> None:
        self.spaces = spaces
        self._units = units
        self.host = spaces[Place.HOST]
        self._directory = directory
        self.cluster_env = directory / "cluster.env"
        self.sidecar_env = directory / "sidecar.env"

    def write(self, keys: dict[str, str]) -> None:
        """Write the two files."""
        if self._units is not None:
            words = {"<unit>": f"{self._units.name}-", "<slice>": self._units.path_of("")}
            for word, meant in words.items():
                keys = {key: value.replace(word, meant) for key, value in keys.items()}
        lines = [f"{key}='{value}'\n" for key, value in keys.items()]
        cluster = [line for line in lines if line.startswith(CLUSTER_KEYS)]
        self.cluster_env.write_text("".join(cluster))
        self.sidecar_env.write_text("".join(line for line in lines if line not in cluster))

    def apply(self, own: str = "") -> subprocess.CompletedProcess[str]:
        """Run `apply` as root does; `own` is the text of hostagent.env."""
        (self._directory / "etc").mkdir(exist_ok=True)
        (self._directory / "etc" / "hostagent.env").write_text(own)
        lock = self._directory / "xtables.lock"
        lock.touch()
        apart = ("sh", "-c", netns.OWN_LOCK, str(lock))
        argv = [*self._seeing(), *apart, PYTHON, "-m", "istio_hostagent", "apply"]
        return self.host.run(argv, env=self._environment(), timeout=LIMIT_S)

    def verb(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another verb as root does, after `apply`."""
        argv = [*self._seeing(), PYTHON, "-m", "istio_hostagent", *words]
        return self.host.run(argv, env=self._environment(), timeout=LIMIT_S)

    def judge(self, configuration: Configuration) -> subprocess.CompletedProcess[str]:
        """Ask the model of the rules that `apply` would put in; see judge.py."""
        argv = [*self._seeing(), PYTHON, "-m", "tests.conformance.judge"]
        question = judge.ask(configuration, self._unit_path)
        return self.host.run(argv, stdin=question, env=self._environment(), timeout=LIMIT_S)

    def _unit_path(self, packet: Packet) -> str:
        """As /proc/PID/cgroup has it."""
        if not packet.unit:
            return ""
        assert self._units is not None
        return self._units.path_of(f"{self._units.name}-{packet.unit}")

    def _seeing(self) -> list[str]:
        return [] if self._units is None else list(groups.SEEING)

    def _environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": str(CHECKOUT),
            "ISTIO_CLUSTER_CONFIG": str(self.cluster_env),
            "ISTIO_SIDECAR_CONFIG": str(self.sidecar_env),
            "CONFIGURATION_DIRECTORY": str(self._directory / "etc"),
            "STATE_DIRECTORY": str(self._directory / "state"),
            "RUNTIME_DIRECTORY": str(self._directory / "run"),
        }

    def send(self, configuration: Configuration) -> list[str]:
        """Send the packets in turn and say who got each, in the words of model.py."""
        lines: list[Any] = [{"servers": list(self._servers(configuration))}]
        lines += [self._wire(packet) for packet in configuration.packets]
        done = subprocess.run(
            [PYTHON, "-I", "-S", str(STATION)],
            input="".join(json.dumps(line) + "\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode != 0:
            raise netns.LabError(done.stderr)
        replies = [json.loads(line) for line in done.stdout.splitlines()]
        return [name_answer(*each) for each in zip(configuration.packets, replies, strict=True)]

    def _wire(self, packet: Packet) -> dict[str, Any]:
        wire = {**packet._asdict(), "client": packet.user._asdict()}
        wire["namespace"] = self.spaces[packet.place].name
        wire["to"] = self.spaces[place_of(packet.host)].name
        if packet.unit:
            assert self._units is not None
            wire["unit"] = str(self._units.path / f"{self._units.name}-{packet.unit}")
        return wire

    def _servers(self, configuration: Configuration) -> Iterator[dict[str, Any]]:
        """The proxy's listeners, and a server at each destination where none of them is."""
        listeners = [
            (model.OUTBOUND, model.TCP, configuration.outbound_port, ("0.0.0.0", "::")),
            (model.INBOUND, model.TCP, configuration.inbound_port, ("0.0.0.0", "::")),
            (model.DNS, model.TCP, 15053, model.LOCALHOST),
            (model.DNS, model.UDP, 15053, model.LOCALHOST),
        ]
        for name, protocol, port, addresses in listeners:
            for address in addresses:
                yield self._server(
                    name,
                    Place.HOST,
                    (protocol, address, port, ""),
                    configuration.proxy,
                    is_transparent=configuration.is_tproxy and name == model.INBOUND,
                )
        taken = {(protocol, port) for _, protocol, port, _ in listeners}
        wanted = dict.fromkeys(
            (packet.protocol, packet.host, packet.port, packet.scope)
            for packet in configuration.packets
            if packet.protocol in (model.TCP, model.UDP)
        )
        for each in wanted:
            protocol, host, port, _ = each
            place = place_of(host)
            if place is not Place.HOST or (protocol, port) not in taken:
                yield self._server(f"{host} {port}", place, each, model.ROOT)

    def _server(
        self,
        name: str,
        place: Place,
        where: tuple[str, str, int, str],
        user: model.User,
        *,
        is_transparent: bool = False,
    ) -> dict[str, Any]:
        protocol, host, port, scope = where
        return {
            "name": name,
            "namespace": self.spaces[place].name,
            "protocol": protocol,
            "host": host,
            "port": port,
            "scope": scope if place is Place.HOST else "eth0" if scope else "",
            "uid": user.uid,
            "gid": user.gid,
            "is_transparent": is_transparent,
        }


def place_of(address: str) -> Place:
    """Where an address of the world is."""
    for place, pairs in model.PLACES.items():
        if any(address in pair for pair in pairs):
            return place
    return Place.HOST if address.startswith("127.") else Place.OUTSIDE


def name_answer(packet: Packet, reply: dict[str, Any]) -> str:
    """Say who got a packet, or what happened instead of that."""
    if reply["outcome"] != "answered":
        return str(reply["outcome"])
    asked, seen = [packet.host, packet.port], reply.get("wanted", [packet.host, packet.port])
    # The port may be another one: two connections from one port to two destinations become two to
    # the proxy's one port, where the kernel has to tell them apart.
    if reply["peer"][0] != reply["own"][0]:
        return f"{reply['server']}, as if from {reply['peer']}"
    if seen != asked:
        return f"{reply['server']}, as if for {seen}"
    if reply["server"] == f"{packet.host} {packet.port}":
        return model.APPLICATION
    return str(reply["server"])


@contextlib.contextmanager
def make(configuration: Configuration) -> Iterator[World]:
    """Build the namespaces with the files and accounts of a configuration; take them away again."""
    directory = Path(tempfile.mkdtemp(prefix="hatest-conformance-"))
    directory.chmod(0o755)
    try:
        with (
            netns.Namespace("host") as host,
            netns.Namespace("outside") as outside,
            netns.Namespace("guest") as guest,
            contextlib.ExitStack() as stack,
        ):
            units = None
            if configuration.units:
                units = stack.enter_context(groups.ControlGroup(is_slice=True))
                for name in configuration.units:
                    units.make(f"{units.name}-{name}")
            _join(host, outside, guest)
            _write_etc(host, configuration)
            world = World(
                {Place.HOST: host, Place.OUTSIDE: outside, Place.GUEST: guest}, directory, units
            )
            world.write(dict(configuration.keys))
            for key, value in configuration.sysctls.items():
                host.sysctl(key, value)
            if configuration.nft:
                host.run(["nft", "-f", "-"], stdin=configuration.nft, check=True)
            yield world
    finally:
        shutil.rmtree(directory)


def _join(host: netns.Namespace, outside: netns.Namespace, guest: netns.Namespace) -> None:
    """Make the links, addresses and routes of model.py, with few processes: there are many worlds."""
    _batch(
        host,
        f"link add eth0 type veth peer name eth0 netns {outside.name}",
        f"link add eth1 type veth peer name eth1 netns {outside.name}",
        f"link add tap0 type veth peer name eth0 netns {guest.name}",
        "link add virbr0 type bridge",
        "link set tap0 master virbr0",
        *(f"link set {name} up" for name in ("eth0", "eth1", "tap0", "virbr0")),
    )
    here = {model.OUTSIDE, model.OUTSIDE_SECOND, model.LINK_LOCAL}
    services = [pair for pair in model.PLACES[Place.OUTSIDE] if pair not in here]
    _batch(
        outside,
        "link set eth0 up",
        "link set eth1 up",
        *_addresses("eth0", model.OUTSIDE),
        *_addresses("eth1", model.OUTSIDE_SECOND),
        f"address add {model.LINK_LOCAL.v6}/64 dev eth0 nodad",
        *(
            f"address add {address} dev lo"
            for pair in services
            for address in (f"{pair.v4}/32", f"{pair.v6}/128")
        ),
        f"address add {model.LINK_LOCAL.v4}/32 dev lo",
        f"address add {model.THIS_NETWORK}/32 dev lo",
        f"route add 10.3.0.0/24 via {model.OWN.v4}",
        f"route add fd00:3::/64 via {model.OWN.v6}",
    )
    _batch(
        guest,
        "link set eth0 up",
        *_addresses("eth0", model.GUEST),
        f"route add default via {model.OWN_BRIDGE.v4}",
        f"route add default via {model.OWN_BRIDGE.v6}",
    )
    _batch(
        host,
        *_addresses("eth0", model.OWN),
        *_addresses("eth1", model.OWN_SECOND),
        *_addresses("virbr0", model.OWN_BRIDGE),
        f"route add default via {model.OUTSIDE.v4}",
        f"route add default via {model.OUTSIDE.v6}",
        f"route add 172.30.0.0/16 via {model.OUTSIDE_SECOND.v4}",
        f"route add fd00:97::/64 via {model.OUTSIDE_SECOND.v6}",
    )
    host.sysctl("net.ipv4.ip_forward", "1")
    host.sysctl("net.ipv6.conf.all.forwarding", "1")


def _batch(space: netns.Namespace, *lines: str) -> None:
    space.run(["ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in lines), check=True)


def _addresses(interface: str, pair: model.Pair) -> tuple[str, ...]:
    return (
        f"address add {pair.v4}/24 dev {interface}",
        f"address add {pair.v6}/64 dev {interface} nodad",
    )


def _write_etc(host: netns.Namespace, configuration: Configuration) -> None:
    """What commands in the host find in /etc instead of the machine's own (ip-netns(8))."""
    etc = netns.ETC / host.name
    etc.mkdir(parents=True)
    servers = "".join(f"nameserver {address}\n" for address in configuration.resolvers)
    (etc / "resolv.conf").write_text(servers)
    accounts = [
        user for user in model.ACCOUNTS if configuration.has_account or user.uid != model.PROXY.uid
    ]
    passwd = "".join(f"{user.name}:x:{user.uid}:{user.gid}::/:/bin/false\n" for user in accounts)
    group = "".join(f"{user.name}:x:{user.gid}:\n" for user in accounts)
    for name, text in (("passwd", passwd), ("group", group)):
        there = Path("/etc", name).read_text().splitlines(keepends=True)
        # Ours come first: the machine may have a user of the same name.
        (etc / name).write_text(text + "".join(there))
