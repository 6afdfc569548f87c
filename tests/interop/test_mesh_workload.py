"""The files of a WorkloadGroup, byte for byte what the real istioctl writes for the same objects."""

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo import ca_material
from tests.lab import cluster as clusters
from tests.lab.cluster import Cluster
from tests.peers import build

from . import objects
from .conftest import find_file
from .mesh import Admin

ROOT = ca_material.many_roots(1).decode()
GATEWAY = "198.51.100.7"
# Of the mesh configuration and revision of each, which WorkloadGroups are tried.
MESHES = {
    "default": {
        "trustDomain": "cluster.local",
        "accessLogFile": "/dev/stdout",
        "defaultConfig": {
            "discoveryAddress": "istiod.istio-system.svc:15012",
            "meshId": "mesh1",
            "proxyMetadata": {"MESH_WIDE": "yes", "QUOTED": "it's"},
            "tracing": {"sampling": 12.5, "zipkin": {"address": "zipkin:9411"}},
            "holdApplicationUntilProxyStarts": True,
            "drainDuration": "1m30s",
            "concurrency": 2,
        },
    },
    "canary": {"defaultConfig": {"proxyStatsMatcher": {"inclusionPrefixes": ["a", "b c"]}}},
    "bare": {},
}
ANNOTATION = "proxy.istio.io/config"
GROUPS: dict[str, dict[str, object]] = {
    "plain": {"template": {"serviceAccount": "web"}},
    "labelled": {
        "metadata": {"labels": {"app": "shop", "version": "v1", "<odd>": "&"}},
        "template": {"serviceAccount": "web", "network": "vm-net", "locality": "eu/1"},
    },
    "overriding": {
        "metadata": {"labels": {"app": "shop", "tier": "one"}},
        "template": {"serviceAccount": "web", "labels": {"app": "other", "zone": "2"}},
    },
    "one-port": {"template": {"serviceAccount": "web", "ports": {"http": 8080}}},
    "ports": {
        "template": {"serviceAccount": "web", "ports": {"http": 8080, "grpc": 7070, "db": 3306}}
    },
    "probed": {
        "template": {"serviceAccount": "web", "ports": {"http": 8080}},
        "probe": {
            "initialDelaySeconds": 5,
            "timeoutSeconds": 0,
            "httpGet": {
                "path": "/healthz",
                "port": 8080,
                "httpHeaders": [{"name": "X", "value": "y: z"}],
            },
        },
    },
    "by-command": {
        "template": {"serviceAccount": "web"},
        "probe": {"exec": {"command": ["sh", "-c", "true # " + "long words " * 12]}},
    },
    "annotated": {
        "metadata": {
            "annotations": {
                ANNOTATION: "statusPort: 15021\nproxyMetadata:\n  MESH_WIDE: 'no'\n  OWN: \"$x\"\n"
                "tracing:\n  sampling: 0.001\nimage: {imageType: distroless}\n"
            }
        },
        "template": {"serviceAccount": "web"},
    },
    "in-seconds": {
        "metadata": {
            "annotations": {
                ANNOTATION: json.dumps(
                    {
                        "terminationDrainDuration": "5.5s",
                        "drainDuration": "0s",
                        "statusPort": "15090",
                        "proxyStatsMatcher": {"inclusionRegexps": [".*", "x: y", "true"]},
                        "gatewayTopology": {"forwardClientCertDetails": "SANITIZE_SET"},
                        "proxyHeaders": {"requestId": {}, "server": {"value": "on"}},
                        "tracing": {"customTags": {"k": {"literal": {"value": ""}}}},
                        "interceptionMode": "TPROXY",
                        "concurrency": 0,
                    }
                )
            }
        },
        "template": {"serviceAccount": "web"},
    },
    "status-port": {
        "metadata": {"annotations": {ANNOTATION: "statusPort: 15999"}},
        "template": {"serviceAccount": "web", "weight": 3},
    },
    "named": {
        "metadata": {
            "labels": {
                "service.istio.io/canonical-name": "grüße",
                "app.kubernetes.io/version": "2.0",
                "app": "x",
            }
        },
        "template": {"serviceAccount": "web"},
    },
}


@pytest.fixture(scope="module")
def istioctl() -> Path:
    return find_file(
        "ISTIO_HOSTAGENT_TEST_ISTIOCTL", build.directory("istio") / "istioctl", "a real istioctl"
    )


@pytest.fixture(scope="module")
def api(istioctl: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("api")
    with clusters.needed(build.directory("kubernetes"), directory) as cluster:
        cluster.add_istio(istioctl)
        cluster.create(
            objects.namespace("vm"),
            objects.account("web", "vm"),
            objects.root_config_map("vm", ROOT),
            objects.injector(),
            objects.service("istio-eastwestgateway", objects.ISTIO, 15012, address=GATEWAY),
        )
        for name, mesh in MESHES.items():
            ending = "" if name == "default" else f"-{name}"
            text = json.dumps(mesh)
            cluster.create(objects.config_map(f"istio{ending}", objects.ISTIO, mesh=text))
            if ending:
                injector = objects.injector(f"istio-sidecar-injector{ending}", f"cluster{ending}")
                cluster.create(injector)
        # Without metadata istioctl ends with SIGSEGV.
        for name, spec in GROUPS.items():
            cluster.create(objects.group(name, "vm", **{"metadata": {}, **spec}))
        yield cluster


@pytest.fixture
def admin(api: Cluster, tmp_path: Path) -> Admin:
    return Admin(tmp_path / "home", api.write_kubeconfig(tmp_path / "kubeconfig"))


def theirs(istioctl: Path, admin: Admin, *words: str) -> dict[str, bytes]:
    """What istioctl writes."""
    command = [str(istioctl), "x", "workload", "entry", "configure", "-o", "theirs", *words]
    done = subprocess.run(
        command, env=admin.environment, cwd=admin.home, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return files(admin.home / "theirs")


def ours(admin: Admin, *words: str) -> dict[str, bytes]:
    admin.did("workload", "entry", "configure", "-o", "ours", *words)
    return files(admin.home / "ours")


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def claims(token: bytes) -> dict[str, object]:
    part = token.decode().split(".")[1]
    found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert isinstance(found, dict)
    return found


def without_order_of_ports(text: bytes) -> bytes:
    """istioctl writes several ports in an order of chance."""
    return re.sub(
        rb"(ISTIO_INBOUND_PORTS=')([\d,]+)'",
        lambda found: found[1] + b",".join(sorted(found[2].split(b","), key=int)) + b"'",
        text,
    )


def compare(mine: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert mine.keys() == other.keys()
    for name in ("mesh.yaml", "root-cert.pem", "hosts"):
        assert mine[name] == other[name], name
    assert mine["cluster.env"] == without_order_of_ports(other["cluster.env"])
    tokens = [claims(each["istio-token"]) for each in (mine, other)]
    for claim in ("aud", "sub", "iss"):
        assert tokens[0][claim] == tokens[1][claim]
    lives = [each["exp"] - each["iat"] for each in tokens]  # type: ignore[operator] # numbers
    assert lives[0] == lives[1]


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_of_the_cluster_makes_the_files_that_istioctl_makes(
    admin: Admin, istioctl: Path, name: str
) -> None:
    words = ("--name", name, "--namespace", "vm")
    compare(ours(admin, *words), theirs(istioctl, admin, *words))


OPTIONS = [
    ("--autoregister",),
    ("--capture-dns=false", "--tokenDuration", "7200"),
    ("--internalIP", "10.1.2.3", "--clusterID", "my cluster"),
    ("--externalIP", "203.0.113.9", "--ingressIP", "203.0.113.1"),
    ("--ingressIP", "2001:db8::7"),
    ("--ingressService", "missing"),
    ("--revision", "canary"),
    ("--revision", "bare", "--autoregister"),
]


@pytest.mark.parametrize("words", OPTIONS, ids=" ".join)
def test_options_make_the_files_that_istioctl_makes(
    admin: Admin, istioctl: Path, words: tuple[str, ...]
) -> None:
    named = ("--name", "probed", "--namespace", "vm", *words)
    compare(ours(admin, *named), theirs(istioctl, admin, *named))


def test_a_group_of_a_file_makes_the_files_that_istioctl_makes(
    admin: Admin, istioctl: Path
) -> None:
    text = "# a group\napiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata:\n"
    text += "  name: filed\n  namespace: vm\nspec:\n  template:\n    serviceAccount: web\n"
    text += "    ports: {http: 80}\n  probe: {tcpSocket: {port: 80}}\n"
    (admin.home / "group.yaml").write_text(text)
    compare(ours(admin, "-f", "group.yaml"), theirs(istioctl, admin, "-f", "group.yaml"))


def test_the_token_is_for_the_caller_alone(admin: Admin) -> None:
    ours(admin, "--name", "plain", "--namespace", "vm")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (admin.home / "ours").iterdir()}
    assert modes.pop("istio-token") == 0o600
    assert set(modes.values()) == {0o644}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--name", "none", "-n", "vm"), "there is no WorkloadGroup none in namespace vm"),
        (("--name", "plain"), "a WorkloadGroup is named by --file"),
        (("-f", "missing.yaml"), "missing.yaml: cannot be read: No such file"),
        (("-f", "broken.yaml"), "broken.yaml:2: is no YAML"),
        (("-f", "pod.yaml"), "pod.yaml: no WorkloadGroup is in it"),
        (("-f", "port.yaml"), "spec.template.ports.http must be a whole number"),
        (
            ("--name", "plain", "-n", "vm", "--revision", "x"),
            "no ConfigMap istio-sidecar-injector-x",
        ),
        (("--name", "plain", "-n", "vm", "--internalIP", "x"), "'x' is no IP address"),
        (("--name", "plain", "-n", "vm", "--tokenDuration", "5"), "no token of less than 600"),
        (("--name", "orphan", "-n", "vm"), "there is no service account gone in namespace vm"),
        (("--name", "plain", "-n", "vm", "-o", "/proc/x"), "/proc/x cannot be made"),
        (
            (
                "--name",
                "plain",
                "-n",
                "vm",
                "--internalIP",
                "10.0.0.1",
                "--externalIP",
                "10.0.0.2",
            ),
            "exclude each other",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    admin: Admin, api: Cluster, words: tuple[str, ...], said: str
) -> None:
    if "orphan" in words:
        api.create(objects.group("orphan", "vm", template={"serviceAccount": "gone"}))
    (admin.home / "broken.yaml").write_text("kind: x\n  y: z\n")
    (admin.home / "pod.yaml").write_text("kind: Pod\n")
    wrong = objects.group("w", "vm", template={"ports": {"http": 1.5}})
    (admin.home / "port.yaml").write_text(json.dumps(wrong))
    done = admin.mesh("workload", "entry", "configure", "-o", "out", *words)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (admin.home / "out").exists()


def test_doctor_says_what_hosts_need(admin: Admin, api: Cluster) -> None:
    api.create(objects.service("istiod", objects.ISTIO, 15012))
    done = admin.mesh("doctor", "--group", "probed", "-n", "vm")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   way to istiod: 198.51.100.7, by Service istio-eastwestgateway" in done.stdout
    assert "ok   WorkloadGroup probed: in namespace vm" in done.stdout
    assert "ok   tokens for hosts: this user may create them" in done.stdout


def test_doctor_names_everything_that_is_wrong_and_what_to_do(admin: Admin, api: Cluster) -> None:
    words = ("--group", "none", "-n", "other", "--revision", "x", "--ingress-service", "none")
    done = admin.mesh("doctor", *words)
    assert done.returncode == 1
    for line in (
        "BAD  control plane: there is no Service istiod-x in namespace istio-system",
        "BAD  name of the cluster: there is no ConfigMap istio-sidecar-injector-x",
        "BAD  way to istiod: there is no Service none in namespace istio-system",
        "BAD  namespace other: is not there\n       `kubectl create namespace other`",
        "BAD  root certificate: there is no ConfigMap istio-ca-root-cert in namespace other",
        "BAD  WorkloadGroup none: there is no WorkloadGroup none in namespace other",
        "BAD  service account default: is not in namespace other",
    ):
        assert line in done.stdout
    assert "ok   WorkloadGroups: the cluster knows them" in done.stdout


def test_doctor_calls_no_text_a_root_certificate(admin: Admin, api: Cluster) -> None:
    api.create(objects.namespace("garbage"), objects.root_config_map("garbage", "root\n"))
    done = admin.mesh("doctor", "-n", "garbage")
    assert done.returncode == 1
    assert "BAD  root certificate: istio-ca-root-cert in namespace garbage" in done.stdout
    assert "is no certificate in PEM" in done.stdout


def test_doctor_of_who_may_nothing_says_so_line_by_line(api: Cluster, tmp_path: Path) -> None:
    config = api.write_kubeconfig(tmp_path / "nobody", token=clusters.TOKENS[clusters.NOBODY])
    done = Admin(tmp_path / "home", config).mesh("doctor", "-n", "vm")
    assert done.returncode == 1
    assert "BAD  control plane: Service istiod in namespace istio-system: " in done.stdout
    assert "may not create serviceaccounts/token in namespace vm" in done.stdout
    assert "Traceback" not in done.stderr
