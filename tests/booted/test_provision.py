"""From outside, by ssh: bare machines end in the mesh of a real API server."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted import cluster as network
from tests.booted import machine as machines
from tests.booted import mesh
from tests.interop import objects
from tests.lab import cluster as api_servers
from tests.lab import netns
from tests.lab.host import CHECKOUT, PYTHON
from tests.peers import build

VM = "vm"
# With Envoy alone nobody else says what is encrypted.
ANNOTATION = (
    f"proxyMetadata:\n  ISTIO_HOSTAGENT_MESH_CIDR: {mesh.MESH}\n  ISTIO_HOSTAGENT_MTLS: strict\n"
)


class Admin:
    """Somebody in the network of the cluster, with a kubeconfig and a key for the machines."""

    def __init__(self, cluster: network.Cluster, home: Path) -> None:
        self._cluster = cluster
        self.home = home
        config = home / "ssh"
        config.write_text(
            f"User root\nIdentityFile {cluster.directory}/login\nStrictHostKeyChecking no\n"
            "UserKnownHostsFile /dev/null\nLogLevel ERROR\n"
        )
        self._environment = {
            "HOME": str(home),
            "KUBECONFIG": str(home / "kubeconfig"),
            "PYTHONPATH": str(CHECKOUT),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "ISTIO_RUN": f"ssh -F {config} -o ConnectTimeout=5",
            "ISTIO_CP": f"scp -q -F {config} -o ConnectTimeout=5",
        }

    def mesh(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb of `mesh`."""
        return subprocess.run(
            self._cluster.command(PYTHON, "-m", "istio_hostagent", "mesh", *words),
            env=self._environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture
def admin(cluster: network.Cluster, ca: mesh.Authority, tmp_path: Path) -> Iterator[Admin]:
    """One whose cluster signs tokens with the key that the CA knows."""
    directory = tmp_path / "api"
    directory.mkdir()
    with (
        netns.Foreign(cluster.name) as namespace,
        api_servers.needed(
            build.directory("kubernetes"),
            directory,
            namespace=namespace,
            address=network.ADDRESS,
            token_key=(ca.directory / "jwt-key.pem").read_bytes(),
        ) as api,
    ):
        api.add_istio(build.directory("istio") / "istioctl")
        group = objects.group(
            "web",
            VM,
            metadata={"annotations": {"proxy.istio.io/config": ANNOTATION}},
            template={"serviceAccount": "web", "ports": {"http": mesh.PORT}},
        )
        text = f"trustDomain: {mesh.TRUST_DOMAIN}\n"
        api.create(
            objects.namespace(VM),
            objects.account("web", VM),
            objects.root_config_map(VM, ca.root_certificate),
            objects.injector(),
            objects.config_map("istio", objects.ISTIO, mesh=text),
            objects.service("istiod", objects.ISTIO, ca.port),
            objects.service(
                "istio-eastwestgateway", objects.ISTIO, ca.port, address=network.ADDRESS
            ),
            group,
        )
        home = tmp_path / "home"
        home.mkdir()
        api.write_kubeconfig(home / "kubeconfig")
        yield Admin(cluster, home)


def test_a_bare_machine_ends_in_the_mesh(
    admin: Admin, provided: machines.Machine, peer: machines.Machine
) -> None:
    done = admin.mesh("doctor", "--group", "web", "-n", VM)
    assert done.returncode == 0, done.stdout + done.stderr
    words = ("machineSetup", provided.address, "--group", "web", "-n", VM)
    done = admin.mesh(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{provided.address}  done    in the mesh")
    assert f"{provided.address}: copying files" in done.stderr
    identity = f"spiffe://{mesh.TRUST_DOMAIN}/ns/{VM}/sa/web"
    assert identity in provided.run("istio-hostagent", "cert").stdout
    # Both ways, and with the peer, which takes nothing but mutual TLS.
    mesh.serve(provided)
    answer = mesh.ask(provided, peer.address)
    assert (answer.status, answer.secret in answer.body) == (0, True)
    answer = mesh.ask(peer, provided.address)
    assert (answer.status, answer.secret in answer.body) == (0, True)
    assert ".istio-hostagent-setup" not in provided.run("ls", "-A", "/root").stdout
    # Again: nothing is restarted, and one that is not there is named beside it.
    pid = provided.unit("istio-hostagent.service", "MainPID")["MainPID"]
    missing = "10.200.2.250"
    done = admin.mesh(*words, missing, "--tries", "1")
    assert done.returncode == 75
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == [provided.address, "done"]
    assert lines[1].split()[:2] == [missing, "FAILED"]
    assert "Connection" in lines[1] or "route" in lines[1]
    assert provided.unit("istio-hostagent.service", "MainPID")["MainPID"] == pid
