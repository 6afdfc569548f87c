"""The control plane of docs/nomad as Nomad runs it, with a real API server and istiod; who it serves."""

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab import layers, nomadjob
from tests.lab.nomadclient import Client, link_or_copy
from tests.lab.nomadstandin import NETWORK, StandIn
from tests.lab.waiting import eventually
from tests.peers import build

from .conftest import MESH, NOMAD_CLIENT
from .test_nomad import AGENT, DOCUMENTS, identity, status

pytestmark = pytest.mark.envoy

KUBERNETES = ("etcd", "kube-apiserver", "kubectl")
WITHIN_S = 180.0


def find_peer(name: str, program: str) -> Path:
    path = build.directory(name) / program
    problem = "" if os.access(path, os.X_OK) else f"needs {program}: `make peers` builds it"
    layers.require("interop", problem)
    return path


def find_programs() -> list[Path]:
    """All that the job runs, and kubectl."""
    istiod = find_peer("istio", "pilot-discovery")
    return [*(find_peer("kubernetes", name) for name in KUBERNETES), istiod]


@pytest.fixture
def programs(nomad_client: Client) -> Path:
    """All of them in one directory, for every user."""
    made = nomad_client.directory / "programs"
    made.mkdir()
    for path in find_programs():
        link_or_copy(path, made / path.name)
    return made


def test_a_group_is_certified_by_the_control_plane_that_nomad_runs(
    nomad_client: Client, programs: Path
) -> None:
    variables: dict[str, dict[str, str]] = {}
    nomad = StandIn(nomad_client, variables)
    job = nomadjob.parse(DOCUMENTS / "control-plane.nomad.hcl", {"programs": str(programs)})
    with contextlib.closing(nomad), nomad.start(job, "control-plane") as plane:
        keys = plane.directory / "alloc/data/keys"
        assert keys.stat().st_mode & 0o777 == 0o700
        # As the document says, from outside the group.
        words = [str(programs / "kubectl"), "--kubeconfig", str(keys / "kubeconfig")]
        words += [f"--server=https://{NOMAD_CLIENT}:6443", "--tls-server-name=apiserver"]

        def kubectl(*more: str) -> subprocess.CompletedProcess[str]:
            done = nomad_client.run([*words, *more], check=False)
            # Nomad starts a task again that has ended: the API server, and istiod without either.
            for name in ("apiserver", "istiod"):
                plane.begin_if_ended(name)
            return done

        def did(*more: str) -> None:
            eventually(lambda: not kubectl(*more).returncode, f"{more} done", within_s=WITHIN_S)

        eventually(
            lambda: kubectl("get", "--raw", "/readyz").stdout == "ok",
            "the API server is ready",
            within_s=WITHIN_S,
        )
        did("create", "namespace", "istio-system")
        did("create", "serviceaccount", "web")
        (service,) = [
            each for each in job.groups["control-plane"].services if each.name == "istiod"
        ]
        label, kind, path = service.check
        assert kind == "http"
        asked = ["curl", "-sf", "-m", "5", f"http://{NOMAD_CLIENT}:{plane.ports[label]}{path}"]

        def is_ready() -> bool:
            plane.begin_if_ended("istiod")
            return not nomad_client.run(asked, check=False).returncode

        eventually(is_ready, "istiod is ready", within_s=WITHIN_S)
        roots = read_roots(kubectl)
        nomad_client.run(["sh", "-c", "cat > /etc/certs/root-cert.pem"], stdin=roots)
        token = kubectl("create", "token", "web", "--audience", "istio-ca").stdout
        variables["nomad/jobs/shop/web"] = {"token": token}
        shop = nomadjob.parse(DOCUMENTS / "shop.nomad.hcl", {"mesh": f"{MESH},{NETWORK}"})
        with nomad.start(shop, "web") as web:
            said = status(web)
            assert said["in_mesh"], said["summary"]
            assert said["certificate"]["identity"] == identity("web")
            # Its roots are those of this istiod, and of nobody else.
            words = [AGENT, "cert", "--json"]
            assert json.loads(web.execute(words).stdout)["roots"]


def read_roots(kubectl: Any) -> str:
    """What istiod has put where every workload finds it."""
    found = ""

    def is_there() -> bool:
        nonlocal found
        words = ("-n", "istio-system", "get", "configmap", "istio-ca-root-cert")
        found = kubectl(*words, "-o", r"jsonpath={.data.root-cert\.pem}").stdout
        return "BEGIN CERTIFICATE" in found

    eventually(is_there, "istiod has shown its roots", within_s=WITHIN_S)
    return found
