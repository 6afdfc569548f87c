"""A machine that runs Istio's own package, and what its clients get while that is replaced.

The package is made here in the shape of istio-sidecar.deb: its unit and the order of its start
script (files sourced, rules cleaned, rules installed, pilot-agent as istio-proxy), around a real
pilot-agent and Envoy. That of the classic releases has two units, no clean-up, and stand-ins that
listen where Envoy would and say when they are told to end.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.package import overlay, repository

DEPENDS = ("iproute2", "iptables", "sudo", "hostname")
UNIT = "lib/systemd/system/istio.service"
AGENT_UNIT = "lib/systemd/system/istio-auth-node-agent.service"
_CONTROL = """\
Package: istio-sidecar
Version: {version}
Architecture: {architecture}
Depends: {depends}
Maintainer: istio-hostagent tests <tests@istio-hostagent.invalid>
Description: throw-away package in the shape of Istio's own, for tests only
"""
_POSTINST = """\
#!/bin/sh
set -e
getent passwd istio-proxy >/dev/null ||
    useradd --system --user-group --home-dir /var/lib/istio istio-proxy
[ -e /etc/istio ] || ln -s /var/lib/istio /etc/istio
mkdir -p /var/lib/istio/envoy /var/lib/istio/proxy /var/lib/istio/config /var/log/istio /etc/certs
touch /var/lib/istio/config/mesh
for each in envoy proxy config config/mesh; do chown istio-proxy: /var/lib/istio/$each; done
chown istio-proxy: /var/log/istio /etc/certs
systemctl daemon-reload || true
"""
_MODERN = """\
[Unit]
Description=istio-sidecar: The Istio sidecar

[Service]
ExecStartPre=+/usr/bin/install -d -o istio-proxy -m 0755 /var/run/secrets
ExecStart=/usr/local/bin/istio-start.sh
ExecStopPost=/usr/local/bin/istio-start.sh clean
Restart=always
StartLimitIntervalSec=0
RestartSec=10
KillMode=mixed
TimeoutStopSec=30s

[Install]
WantedBy=multi-user.target
"""
_START = """\
#!/bin/bash
set -e
set -a
for file in sidecar.env cluster.env; do
    [ ! -r /var/lib/istio/envoy/$file ] || . /var/lib/istio/envoy/$file
done
set +a
rules="/usr/local/bin/pilot-agent istio-iptables"
if [ "$1" = clean ]; then $rules --cleanup-only; exit 0; fi
$rules --cleanup-only
$rules
export CA_ADDR=istiod.istio-system.svc:15012 PROV_CERT=./etc/certs OUTPUT_CERTS=./etc/certs
export PROXY_CONFIG="serviceCluster: rawvm"
INSTANCE_IP=$(hostname --all-ip-addresses | cut -d ' ' -f 1)
POD_NAME=$(hostname -s)
export INSTANCE_IP POD_NAME
exec sudo -E -u istio-proxy -s /bin/bash -c "exec /usr/local/bin/pilot-agent proxy \\
    1>> /var/log/istio/istio.log 2>> /var/log/istio/istio.err.log"
"""
_CLASSIC = """\
[Unit]
Description=istio-sidecar: The Istio sidecar

[Service]
ExecStart=/usr/local/bin/istio-start.sh
Restart=always
RestartSec=10
[Install]
WantedBy=multi-user.target
"""
# istio-iptables.sh as far as this host's files need it, and su as that script has it.
_CLASSIC_START = """\
#!/bin/bash
set -e
for table in ISTIO_REDIRECT ISTIO_INBOUND ISTIO_OUTPUT; do
    iptables -t nat -N $table 2>/dev/null || iptables -t nat -F $table
done
iptables -t nat -D PREROUTING -p tcp -j ISTIO_INBOUND 2>/dev/null || true
iptables -t nat -D OUTPUT -p tcp -j ISTIO_OUTPUT 2>/dev/null || true
iptables -t nat -A ISTIO_REDIRECT -p tcp -j REDIRECT --to-port 15001
iptables -t nat -A PREROUTING -p tcp -j ISTIO_INBOUND
iptables -t nat -A ISTIO_INBOUND -p tcp --dport {port} -j ISTIO_REDIRECT
iptables -t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT
iptables -t nat -A ISTIO_OUTPUT -m owner --uid-owner istio-proxy -j RETURN
iptables -t nat -A ISTIO_OUTPUT -d {mesh} -j ISTIO_REDIRECT
exec su -s /bin/bash -c "exec /usr/local/bin/classic-proxy" istio-proxy
"""
# Envoy of that time: it shares its port with nobody and ends at once with SIGTERM.
_CLASSIC_PROXY = """\
#!/usr/bin/python3
import signal, socket, struct, threading
def end(*_):
    open("/var/log/istio/proxy-ended", "w").close()
    raise SystemExit
signal.signal(signal.SIGTERM, end)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", 15001))
listener.listen(128)
def copy(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
def serve(client):
    raw = client.getsockopt(socket.SOL_IP, 80, 16)
    port, address = struct.unpack("!2xH4s8x", raw)
    address = socket.inet_ntoa(address)
    if client.getsockname()[0] != "127.0.0.1":
        address = "127.0.0.1"  # what comes from outside, as the clusters of that time have it
    with client, socket.create_connection((address, port)) as server:
        back = threading.Thread(target=copy, args=(server, client))
        back.start()
        copy(client, server)
        back.join()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
_NODE_AGENT = """\
#!/usr/bin/python3
import signal
def end(*_):
    open("/var/log/istio/agent-ended", "w").close()
    raise SystemExit
signal.signal(signal.SIGTERM, end)
signal.pause()
"""
_CLASSIC_AGENT = """\
[Unit]
Description=istio-auth-node-agent: The Istio auth node agent

[Service]
ExecStart=/usr/local/bin/node_agent
Restart=always
RestartSec=10
[Install]
WantedBy=multi-user.target
"""


def modern_package(directory: Path, pilot_agent: Path, bootstrap: Path, envoy: Path) -> Path:
    """Make one as Istio's releases of today ship it; gives its path."""
    files = {
        UNIT: _MODERN,
        "usr/local/bin/istio-start.sh": _START,
        "var/lib/istio/envoy/sidecar.env": "# nothing\n",
    }
    programs = {
        "usr/local/bin/pilot-agent": pilot_agent,
        "usr/local/bin/envoy": envoy,
        "var/lib/istio/envoy/envoy_bootstrap_tmpl.json": bootstrap,
    }
    return _build(directory, "1.30.3", files, programs)


def classic_package(directory: Path) -> Path:
    """Make one in the shape of 0.8 and 1.0; gives its path."""
    start = _CLASSIC_START.format(port=mesh.PORT, mesh=mesh.MESH)
    files = {
        UNIT: _CLASSIC,
        AGENT_UNIT: _CLASSIC_AGENT,
        "usr/local/bin/istio-start.sh": start,
        "usr/local/bin/classic-proxy": _CLASSIC_PROXY,
        "usr/local/bin/node_agent": _NODE_AGENT,
    }
    return _build(directory, "1.0.9", files, {})


def _build(
    directory: Path, version: str, files: dict[str, str], programs: dict[str, Path]
) -> Path:
    with tempfile.TemporaryDirectory(dir=directory) as name:
        tree = Path(name)
        tree.chmod(0o755)
        control = _CONTROL.format(
            version=version,
            architecture=repository.architecture(),
            depends=", ".join(DEPENDS),
        )
        conffiles = [f"/{path}" for path in (*files, *programs) if path.startswith("var/lib")]
        texts = {
            "DEBIAN/control": control,
            "DEBIAN/postinst": _POSTINST,
            "DEBIAN/conffiles": "".join(f"{path}\n" for path in conffiles),
            **files,
        }
        for path, text in texts.items():
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            is_program = "/bin/" in path or path.endswith("postinst")
            target.chmod(0o755 if is_program else 0o644)
        for path, source in programs.items():
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            target.chmod(0o755 if "/bin/" in path else 0o644)
        made = directory / f"istio-sidecar_{version}.deb"
        options = ["--build", "--root-owner-group", "-Znone"]
        overlay.run_checked(["dpkg-deb", *options, tree, made])
    return made


# A new connection each time, by an ordinary user, until the file /run/enough is there.
_LOAD = """\
import json, os, socket, sys, time
address, port, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
found = {"asked": 0, "answered": 0, "longest_s": 0.0, "errors": []}
while found["asked"] < most and not os.path.exists("/run/enough"):
    begun = time.monotonic()
    found["asked"] += 1
    try:
        with socket.create_connection((address, port), 20) as line:
            line.settimeout(20)
            line.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
            data = b""
            while b" heard " not in data:
                more = line.recv(4096)
                if not more:
                    raise OSError(f"ended after {data[:60]!r}")
                data += more
        found["answered"] += 1
    except OSError as error:
        at = f"{time.strftime('%H:%M:%S')}.{time.time_ns() // 1_000_000 % 1000:03}"
        name = f"{at} {type(error).__name__} {error} after {time.monotonic() - begun:.2f} s"
        found["errors"] = [*found["errors"], name][-20:]
    found["longest_s"] = max(found["longest_s"], time.monotonic() - begun)
    time.sleep(max(0, 0.01 - (time.monotonic() - begun)))
json.dump(found, sys.stdout)
"""
# What an ordinary user sends leaves without the proxy, and comes to the application without it.
# (The agent's own probes have the address of a neighbour, and are dropped behind this.)
_AROUND = """\
table inet around {{
    counter sent {{ }}
    counter arrived {{ }}
    chain sent {{
        type filter hook postrouting priority 300
        oifname eth0 meta skuid nobody tcp dport {port} tcp flags & (syn | ack) == syn counter name sent
    }}
    chain arrived {{
        type filter hook input priority 300
        iifname eth0 ip saddr {client} tcp dport {inbound} tcp flags & (syn | ack) == syn counter name arrived
    }}
}}
"""


class Load(NamedTuple):
    """What clients got: requests, answers, the longest in seconds, and the last errors in words."""

    asked: int
    answered: int
    longest_s: float
    errors: list[str]


def count_around(machine: machines.Machine, port: int) -> None:
    """Begin to count new connections that go around a proxy."""
    text = _AROUND.format(port=port, inbound=mesh.PORT, client=network.ADDRESS)
    machine.run("nft", "-f", "-", stdin=text)


def around(machine: machines.Machine) -> dict[str, int]:
    """Give how many have gone around: sent, and arrived."""
    listing = machine.run("nft", "-j", "list", "counters").stdout
    counters = [each["counter"] for each in json.loads(listing)["nftables"] if "counter" in each]
    return {each["name"]: each["packets"] for each in counters if each["table"] == "around"}


class Clients:
    """Clients on the machine, and outside it, until `end`; each one request after the other."""

    def __init__(self, machine: machines.Machine, server: str, port: int, most: int) -> None:
        """Begin; `server`: whom the machine's own clients ask."""
        self._machine = machine
        enough = machine.cluster.directory / f"{machine.name}-enough"
        machine.write("/opt/load.py", _LOAD)
        outside = machine.cluster.directory / f"{machine.name}-load.py"
        outside.write_text(_LOAD.replace("/run/enough", str(enough)))
        self._enough = enough
        words = ("/usr/bin/python3", "/opt/load.py", server, str(port), str(most))
        become = ("setpriv", "--reuid", "nobody", "--clear-groups")
        self._within = overlay.Background(machine.command(*become, *words))
        words = ("/usr/bin/python3", str(outside), machine.address, str(mesh.PORT), str(most))
        self._outside = overlay.Background(machine.cluster.command(*words))

    def end(self) -> tuple[Load, Load]:
        """Let them end; gives what those within got, and those outside."""
        self._machine.run("touch", "/run/enough")
        self._enough.touch()
        found = [json.loads(each.finish()) for each in (self._within, self._outside)]
        self._machine.run("rm", "/run/enough")
        self._enough.unlink()
        return Load(**found[0]), Load(**found[1])


def serve_beside(cluster: network.Cluster, address: str) -> None:
    """Give the cluster an address in the mesh's network, on which servers may listen."""
    network.ip(
        "-n", cluster.name, "address", "add", f"{address}/{network.PREFIX_LENGTH}", "dev", "br0"
    )
