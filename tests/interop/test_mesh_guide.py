"""Every command of docs/mesh-expansion.md, in its order, by a shell against a real API server."""

import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.cli import mesh as verbs
from tests.demo import ca_material
from tests.lab import cluster as clusters
from tests.lab.cluster import Cluster
from tests.lab.host import CHECKOUT, PYTHON
from tests.peers import build

from . import objects
from .conftest import find_file
from .stand_in import Hosts

GUIDE = CHECKOUT / "docs" / "mesh-expansion.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Cluster]:
    istioctl = find_file(
        "ISTIO_HOSTAGENT_TEST_ISTIOCTL", build.directory("istio") / "istioctl", "a real istioctl"
    )
    directory = tmp_path / "api"
    directory.mkdir()
    with clusters.needed(build.directory("kubernetes"), directory) as api:
        api.add_istio(istioctl)
        api.create(
            objects.injector(),
            objects.config_map("istio", objects.ISTIO, mesh="trustDomain: cluster.local\n"),
            objects.service("istiod", objects.ISTIO, 15012),
            objects.service("istio-eastwestgateway", objects.ISTIO, 15012, address="192.0.2.7"),
        )
        yield api


class Cloud(threading.Thread):
    """Gives addresses to load balancers, and what istiod and Citadel give to a namespace."""

    def __init__(self, api: Cluster) -> None:
        super().__init__()
        self._api = api
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._made: set[str] = set()

    def __enter__(self) -> "Cloud":
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._is_over.set()
        self.join()

    def run(self) -> None:
        while not self._is_over.wait(0.5):
            self.fill_namespaces()
            for each in self._api.request("GET", "/api/v1/services")["items"]:
                balanced = each["spec"]["type"] == "LoadBalancer"
                if balanced and not each["status"]["loadBalancer"]:
                    each |= {"apiVersion": "v1", "kind": "Service"}
                    each["status"]["loadBalancer"] = {"ingress": [{"ip": "10.150.0.6"}]}
                    self._api.request("PUT", f"{clusters.path_of(each)}/status", each)

    def fill_namespaces(self) -> None:
        """Put into them what istiod and Citadel do."""
        with self._lock:
            for each in self._api.request("GET", "/api/v1/namespaces")["items"]:
                if each["metadata"]["name"] == "vm" and "vm" not in self._made:
                    self._made.add("vm")
                    self._api.create(
                        objects.root_config_map("vm", ca_material.many_roots(1).decode()),
                        objects.machine_secret("istio.default", "vm"),
                    )


def test_the_guide_names_every_verb() -> None:
    text = GUIDE.read_text()
    assert [
        verb.name for verb in verbs.VERBS if verb.name not in text and verb.alias not in text
    ] == []


def test_every_command_of_the_guide_works(api: Cluster, tmp_path: Path) -> None:
    hosts = Hosts(tmp_path / "hosts")
    home = tmp_path / "home"
    home.mkdir()
    program = hosts.programs / "istio-hostagent"
    program.write_text(f'#!/bin/sh\nexec {PYTHON} -m istio_hostagent "$@"\n')
    program.chmod(0o755)
    environment = {
        "HOME": str(home),
        "KUBECONFIG": str(api.write_kubeconfig(home / "kubeconfig")),
        "PYTHONPATH": str(CHECKOUT),
        "PATH": f"{hosts.programs}:{build.directory('kubernetes')}:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    assert len(BLOCKS) >= 8
    said = {}
    with Cloud(api) as cloud:
        for block in BLOCKS:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block],
                env=environment,
                cwd=home,
                capture_output=True,
                text=True,
                timeout=180,
            )
            assert done.returncode == 0, block + done.stdout + done.stderr
            said[block] = done.stdout
            # Who types is slower than istiod.
            cloud.fill_namespaces()
    together = "\n".join(said.values())
    assert "BAD" not in together
    assert together.count("  done    in the mesh") == 3
    assert "ISTIO_SERVICE_CIDR=10.96.0.0/16" in together
    assert "address=/istio-pilot.istio-system/10.150.0.6" in together
    sidecar = hosts.text("vm3", "/var/lib/istio/envoy/sidecar.env")
    assert sidecar == "ISTIO_INBOUND_PORTS=3306,8080\n"
