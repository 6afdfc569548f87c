"""What a booted machine needs to resolve names of a mesh: a real istiod, pilot-agent, and a world.

The world is a name server in the cluster that knows one name and says NXDOMAIN to every other
one; it logs who asked it. istiod runs in the cluster's namespace, too.
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.interop import authority as authorities
from tests.interop import istiod as istiods
from tests.lab import netns

SERVICE, SERVICE_ADDRESS = "reviews.shop.example", "10.96.7.7"
OUTSIDE, OUTSIDE_ADDRESS = "outside.example", "192.0.2.7"
# Name servers of two networks, and one that is reached by IPv6 alone.
SERVERS = (network.ADDRESS, "10.200.0.2", "fd00:200::1")
FIRST, SECOND, SIXTH = SERVERS
APPLICATION = "nobody"
PROGRAMS = "opt/istio"
HOSTAGENT_ENV = (
    # It goes on for that long when it is told to end; five seconds by default.
    "PROXY_CONFIG='terminationDrainDuration: 1s'\n"
    f"ISTIO_BIN_BASE=/{PROGRAMS}\n"
    "ISTIO_HOSTAGENT_ENVOY=/usr/bin/envoy\n"
    f"ISTIO_BOOTSTRAP=/{PROGRAMS}/envoy_bootstrap.json\n"
)
# What a lookup costs at most: the C library asks once and waits no longer.
PATIENCE_S = 3

_NAME_SERVER = """\
import socket, sys, threading

def answer(query):
    end = query.index(0, 12) + 5
    labels, kind, words = query[12:end - 5], query[end - 3], []
    while labels:
        words.append(labels[1:labels[0] + 1].decode())
        labels = labels[labels[0] + 1:]
    name = ".".join(words)
    is_v4 = name == sys.argv[1] and kind == 1
    flags = b"\\x81\\x80" if name == sys.argv[1] else b"\\x81\\x83"
    head = query[:2] + flags + b"\\0\\x01\\0" + bytes([is_v4]) + bytes(4)
    address = b"\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\0\\0\\x04" + socket.inet_aton(sys.argv[2])
    return name, head + query[12:end] + (address if is_v4 else b"")

def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET

def serve(address):
    with socket.socket(family(address), socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        while True:
            query, peer = sock.recvfrom(4096)
            name, text = answer(query)
            print(address, peer[0], name, flush=True)
            sock.sendto(text, peer)

def serve_tcp(address):
    with socket.socket(family(address), socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, 53))
        listener.listen()
        while True:
            connection, peer = listener.accept()
            with connection:
                connection.settimeout(2)
                size = int.from_bytes(connection.recv(2), "big")
                if not size:
                    continue  # who only looks whether somebody listens
                name, text = answer(connection.recv(size))
                print(address, peer[0], name, flush=True)
                connection.sendall(len(text).to_bytes(2, "big") + text)

for each in sys.argv[3:]:
    for serving in (serve, serve_tcp):
        threading.Thread(target=serving, args=(each,)).start()
"""

_LOOK_UP = """\
import socket, sys
try:
    print(socket.gethostbyname(sys.argv[1]))
except OSError as error:
    print(error)
"""

_ASK = """\
import socket, sys
words = b"".join(bytes([len(word)]) + word.encode() for word in sys.argv[2].split("."))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(2)
    sock.connect((sys.argv[1], 53))
    sock.send(b"ab\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + words + b"\\0\\0\\1\\0\\1")
    answer = sock.recv(512)
print(socket.inet_ntoa(answer[-4:]) if answer[7] else f"code {answer[3] & 15}")
"""


@dataclass(frozen=True)
class World:
    """The name servers of the cluster."""

    log: Path
    _seen: list[int] = field(default_factory=lambda: [0])

    def asked(self) -> list[str]:
        """Give what they were asked since the last call: server, client and name in a line."""
        lines = self.log.read_text().splitlines()
        new, self._seen[0] = lines[self._seen[0] :], len(lines)
        return new


@contextlib.contextmanager
def world(cluster: network.Cluster) -> Iterator[World]:
    """Run the name servers in the cluster."""
    for address in SERVERS[1:]:
        length = "64" if ":" in address else str(network.PREFIX_LENGTH)
        extra = ["nodad"] if ":" in address else []
        inside = ["-n", cluster.name, "address", "add", f"{address}/{length}", "dev", "br0"]
        network.ip(*inside, *extra)
    argv = ["/usr/bin/python3", "-c", _NAME_SERVER, OUTSIDE, OUTSIDE_ADDRESS, *SERVERS]
    with cluster.server(53, *argv, log="world.log"):
        yield World(cluster.directory / "world.log")


@contextlib.contextmanager
def istiod(cluster: network.Cluster, binary: Path) -> Iterator[istiods.Istiod]:
    """Run a real istiod in the cluster, whose mesh has SERVICE."""
    address = f"{istiods.ADDRESS}/24"
    network.ip("-n", cluster.name, "address", "add", address, "dev", "br0")
    directory = cluster.directory / "istiod"
    directory.mkdir()
    with netns.Foreign(cluster.name) as inside:
        made = istiods.Istiod(binary, inside, directory, authorities.Authority.create())
        made.write_service(SERVICE, SERVICE_ADDRESS, 80)
        with made:
            yield made


def install_istio(machine: machines.Machine, pilot_agent: Path, bootstrap: Path) -> None:
    """Put onto the machine what the package istio-sidecar has, but for Envoy."""
    directory = machine.directory / "upper" / PROGRAMS
    directory.mkdir(parents=True)
    for source, mode in ((pilot_agent, 0o755), (bootstrap, 0o644)):
        target = directory / source.name
        shutil.copy(source, target)
        target.chmod(mode)


def cluster_env(**changed: str) -> str:
    """Return what `istioctl x workload entry configure --capture-dns` writes, quotes and all."""
    keys = {
        "CANONICAL_REVISION": "latest",
        "CANONICAL_SERVICE": authorities.SERVICE_ACCOUNT,
        "ISTIO_INBOUND_PORTS": str(mesh.PORT),
        "ISTIO_LOCAL_EXCLUDE_PORTS": "22,15090,15021,15020",
        "ISTIO_METAJSON_LABELS": '{"app":"web","service.istio.io/canonical-name":"web"}',
        "ISTIO_META_CLUSTER_ID": istiods.CLUSTER_ID,
        "ISTIO_META_DNS_CAPTURE": "true",
        "ISTIO_META_MESH_ID": "",
        "ISTIO_META_NETWORK": "",
        "ISTIO_META_WORKLOAD_NAME": "web",
        "ISTIO_NAMESPACE": authorities.NAMESPACE,
        "ISTIO_SERVICE": f"web.{authorities.NAMESPACE}",
        "ISTIO_SERVICE_CIDR": "*",
        "POD_NAMESPACE": authorities.NAMESPACE,
        "SERVICE_ACCOUNT": authorities.SERVICE_ACCOUNT,
        "TRUST_DOMAIN": "",
        **changed,
    }
    return "".join(f"{key}='{value}'\n" for key, value in sorted(keys.items()))


def provision(machine: machines.Machine, control: istiods.Istiod, **changed: str) -> None:
    """Put in place what an operator does; keywords replace keys of cluster.env, or add some."""
    hosts = machine.read("/etc/hosts")
    machine.write("/etc/hosts", f"{hosts}{istiods.ADDRESS} {istiods.NAME}\n")
    machine.write(mesh.HOSTAGENT_ENV, HOSTAGENT_ENV)
    machine.write(mesh.ROOT_CERT, control.authority.root_bundle.decode(), owner="istio-proxy")
    machine.write(mesh.TOKEN, control.authority.token(), mode="0600", owner="istio-proxy")
    machine.write(mesh.CLUSTER_ENV, cluster_env(**changed))


def look_up(machine: machines.Machine, name: str, *options: str, user: str = APPLICATION) -> str:
    """Return what the C library says of a name to a user, or the error; `options`: of resolver."""
    environment = f"RES_OPTIONS={' '.join((f'timeout:{PATIENCE_S}', 'attempts:1', *options))}"
    become = ["setpriv", "--reuid", user, "--regid", "nogroup", "--clear-groups"]
    python = ["/usr/bin/python3", "-c", _LOOK_UP, name]
    return machine.run(*become, "env", environment, *python, check=False).stdout.strip()


def ask(machine: machines.Machine, server: str, name: str) -> str:
    """Return the address that an ordinary user is told who asks this server, or the code."""
    become = ["setpriv", "--reuid", APPLICATION, "--regid", "nogroup", "--clear-groups"]
    python = ["/usr/bin/python3", "-c", _ASK, server, name]
    return machine.run(*become, *python, check=False).stdout.strip()


def wait_resolved(
    machine: machines.Machine, name: str, address: str, within_s: float = 20
) -> None:
    """Return once an ordinary user is told this address; raises Timeout with what is said."""
    said = [""]

    def is_told() -> bool:
        said[0] = look_up(machine, name)
        return said[0] == address

    try:
        network.wait_until(is_told, f"{name} is {address}", within_s)
    except network.Timeout as error:
        raise network.Timeout(f"{error}; said: {said[0]}") from None
