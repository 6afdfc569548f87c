"""The verbs of setupMeshEx.sh against a real API server."""

import contextlib
import datetime
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import cluster as clusters
from tests.lab.cluster import NOBODY, TOKENS, Cluster
from tests.peers import build

from . import objects
from .mesh import Admin

ADDRESSES = {
    ("istio-pilot-ilb", objects.ISTIO): "10.150.0.6",
    ("dns-ilb", "kube-system"): "10.150.0.7",
    ("mixer-ilb", objects.ISTIO): "10.150.0.8",
    ("citadel-ilb", objects.ISTIO): "10.150.0.9",
}
KUBEDNS = """\
server=/svc.cluster.local/10.150.0.7
address=/istio-policy/10.150.0.8
address=/istio-telemetry/10.150.0.8
address=/istio-pilot/10.150.0.6
address=/istio-citadel/10.150.0.9
address=/istio-ca/10.150.0.9
address=/istio-policy.istio-system/10.150.0.8
address=/istio-telemetry.istio-system/10.150.0.8
address=/istio-pilot.istio-system/10.150.0.6
address=/istio-citadel.istio-system/10.150.0.9
address=/istio-ca.istio-system/10.150.0.9
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("api")
    networks = "10.61.0.0/20,fd00:61::/112"
    with clusters.needed(build.directory("kubernetes"), directory, service_cidr=networks) as api:
        api.create(objects.namespace(objects.ISTIO), objects.namespace("vm"))
        yield api


@pytest.fixture
def admin(api: Cluster, tmp_path: Path) -> Iterator[Admin]:
    yield Admin(tmp_path / "home", api.write_kubeconfig(tmp_path / "config"))
    for namespace in (objects.ISTIO, "kube-system", "vm"):
        api.delete_all("v1", "Service", namespace)
    for kind in ("Secret", "ServiceAccount"):
        api.delete_all("v1", kind, "vm")
    for each in (ROLE, BINDING):
        with contextlib.suppress(clusters.ApiError):
            api.request("DELETE", clusters.path_of(each))


def path(name: str, namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/services/{name}"


def give_address(api: Cluster, name: str, namespace: str, **entry: str) -> None:
    found = api.request("GET", path(name, namespace))
    found["status"] = {"loadBalancer": {"ingress": [entry]}}
    api.request("PUT", f"{path(name, namespace)}/status", found)


def give_all(api: Cluster) -> None:
    for (name, namespace), address in ADDRESSES.items():
        give_address(api, name, namespace, ip=address)


def test_the_networks_of_services_are_those_of_the_api_server(admin: Admin, api: Cluster) -> None:
    done = admin.mesh("generateClusterEnv", "some-cluster")
    assert done.returncode == 0, done.stderr
    assert "ServiceCIDR objects" in done.stderr
    assert admin.read("cluster.env") == (
        "ISTIO_SERVICE_CIDR=10.61.0.0/20,fd00:61::/112\n"
        "ISTIO_SYSTEM_NAMESPACE=istio-system\nISTIO_CP_AUTH=MUTUAL_TLS\n"
    )
    admin.did("cluster-env", "--release", "0.8", CONTROL_PLANE_AUTH_POLICY="NONE")
    assert "CONTROL_PLANE_AUTH_POLICY=NONE\n" in admin.read("cluster.env")


# What lets somebody create a Service, and see none.
ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "lab"},
    "rules": [{"apiGroups": [""], "resources": ["services"], "verbs": ["create"]}],
}
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "lab"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "lab"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": NOBODY}],
}


def test_who_may_not_list_networks_learns_them_from_an_objection(
    admin: Admin, api: Cluster, tmp_path: Path
) -> None:
    nobody = Admin(admin.home, api.write_kubeconfig(tmp_path / "nobody", token=TOKENS[NOBODY]))
    done = nobody.mesh("cluster-env")
    assert done.returncode == 69
    assert "may not list ServiceCIDR objects, nor create Services" in done.stderr
    assert "--cidr says them" in done.stderr
    api.create(ROLE, BINDING)
    count = len(api.request("GET", "/api/v1/services")["items"])
    done = nobody.mesh("cluster-env")
    assert done.returncode == 0, done.stderr
    assert "objection to an impossible address" in done.stderr
    assert "ISTIO_SERVICE_CIDR=10.61.0.0/20,fd00:61::/112\n" in nobody.read("cluster.env")
    assert len(api.request("GET", "/api/v1/services")["items"]) == count


def test_gcloud_is_asked_where_the_api_server_does_not_tell(
    admin: Admin, api: Cluster, tmp_path: Path
) -> None:
    nobody = Admin(admin.home, api.write_kubeconfig(tmp_path / "nobody", token=TOKENS[NOBODY]))
    programs = tmp_path / "bin"
    programs.mkdir()
    gcloud = programs / "gcloud"
    gcloud.write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/asked\necho \'{{"servicesIpv4Cidr": "10.9.0.0/16"}}\'\n'
    )
    gcloud.chmod(0o755)
    paths = f"{programs}:{nobody.environment['PATH']}"
    nobody.did("cluster-env", PATH=paths, K8S_CLUSTER="mine", GCP_OPTS="--zone Z --project P")
    asked = (tmp_path / "asked").read_text()
    assert asked == "container clusters describe mine --zone Z --project P --format=json\n"
    assert "ISTIO_SERVICE_CIDR=10.9.0.0/16\n" in nobody.read("cluster.env")


def test_load_balancers_are_applied_once_and_keep_what_others_added(
    admin: Admin, api: Cluster
) -> None:
    assert admin.did("meshExpansion", "--apply").count(": created") == 4
    assert admin.did("load-balancers", "--apply").count(": as it should be") == 4
    where = path("istio-pilot-ilb", objects.ISTIO)
    found = api.request("GET", where)
    ports = {port["port"]: port["nodePort"] for port in found["spec"]["ports"]}
    found["metadata"]["labels"]["theirs"] = "kept"
    found["spec"]["ports"] = found["spec"]["ports"][:1]
    api.request("PUT", where, found)
    said = admin.did("load-balancers", "--apply")
    assert (said.count(": changed"), said.count(": as it should be")) == (1, 3)
    found = api.request("GET", where)
    assert found["metadata"]["labels"]["theirs"] == "kept"
    assert {port["port"] for port in found["spec"]["ports"]} == set(ports)
    assert found["spec"]["ports"][0]["nodePort"] == ports[found["spec"]["ports"][0]["port"]]


def test_what_is_printed_is_what_kubectl_applies(admin: Admin, api: Cluster) -> None:
    for release in ("0.2.7", "0.3.0", "0.5.1", "0.7.1", "1.0.9"):
        text = admin.did("load-balancers", "--release", release)
        kubectl = [str(build.directory("kubernetes") / "kubectl"), "apply", "-f", "-"]
        done = subprocess.run(
            kubectl, input=text, env=admin.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
    annotations = admin.did("load-balancers", "--annotation", "a.b/c=d e").count("a.b/c: d e")
    assert annotations == 4


def test_kubedns_has_the_addresses_of_the_load_balancers(admin: Admin, api: Cluster) -> None:
    admin.did("load-balancers", "--apply")
    give_all(api)
    assert "kubedns is written" in admin.did("generateDnsmasq")
    assert admin.read("kubedns") == KUBEDNS


def test_a_load_balancer_with_a_host_name_is_looked_up(admin: Admin, api: Cluster) -> None:
    admin.did("load-balancers", "--apply")
    give_all(api)
    give_address(api, "istio-pilot-ilb", objects.ISTIO, hostname="localhost")
    done = admin.mesh("dnsmasq")
    assert done.returncode == 0, done.stderr
    assert "istio-pilot-ilb is at localhost, whose addresses may change" in done.stderr
    assert "address=/istio-pilot/127.0.0.1\n" in admin.read("kubedns")


def test_without_load_balancers_node_ports_are_used(admin: Admin, api: Cluster) -> None:
    admin.did("load-balancers", "--apply")
    done = admin.mesh("dnsmasq", "--node", "192.0.2.9")
    assert done.returncode == 0, done.stderr
    ports = {
        name: api.request("GET", path(name, namespace))["spec"]["ports"][-1]["nodePort"]
        for name, namespace in ADDRESSES
    }
    assert f"server=/svc.cluster.local/192.0.2.9#{ports['dns-ilb']}\n" in admin.read("kubedns")
    assert f"ISTIO_PILOT_PORT={ports['istio-pilot-ilb']} in sidecar.env" in done.stderr
    assert f"CITADEL_ADDRESS=192.0.2.9:{ports['citadel-ilb']} in sidecar.env" in done.stderr


def wait_for_addresses(admin: Admin) -> "subprocess.Popen[str]":
    """The verb that waits for load balancers, begun; on its standard error it says for which."""
    return subprocess.Popen(
        admin.argv("dnsmasq"),
        env=admin.environment,
        cwd=admin.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_waits_for_addresses_and_says_for_which(admin: Admin, api: Cluster) -> None:
    admin.did("load-balancers", "--apply")
    for name, namespace in list(ADDRESSES)[1:]:
        give_address(api, name, namespace, ip=ADDRESSES[name, namespace])
    process = wait_for_addresses(admin)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "waiting: Service istio-pilot-ilb in namespace istio-system: no address yet" in first
    give_address(api, "istio-pilot-ilb", objects.ISTIO, ip="10.150.0.6")
    assert process.wait(60) == 0, process.stderr.read()
    process.stderr.close()
    assert admin.read("kubedns") == KUBEDNS


def test_when_it_gives_up_it_names_everything_that_is_missing(admin: Admin, api: Cluster) -> None:
    api.create(objects.service("istio-pilot-ilb", objects.ISTIO, 15011))
    done = admin.mesh("dnsmasq", "--timeout", "0")
    assert done.returncode == 75
    assert "istio-pilot-ilb in namespace istio-system: no address yet" in done.stderr
    assert "dns-ilb in namespace kube-system: there is no such Service" in done.stderr
    assert not (admin.home / "kubedns").exists()


def test_certificate_files_are_those_of_the_secret(admin: Admin, api: Cluster) -> None:
    secret = objects.machine_secret("istio.default", "vm")
    api.create(secret)
    assert admin.did("machineCerts", "default", "vm") == "root-cert.pem is written\n"
    assert not (admin.home / "key.pem").exists()
    said = admin.did("machineCerts", "default", "vm", "all")
    assert said == "root-cert.pem, cert-chain.pem, key.pem are written\n"
    assert (admin.home / "key.pem").stat().st_mode & 0o777 == 0o600
    assert "BEGIN RSA PRIVATE KEY" in admin.read("key.pem")
    # Before 0.6 two arguments were enough; names may come by the environment.
    admin.did("certs", "-o", "old", "--release", "0.5", SERVICE_NAMESPACE="vm")
    assert sorted(each.name for each in (admin.home / "old").iterdir()) == [
        "cert-chain.pem", "key.pem", "root-cert.pem",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("secret", "words", "said"),
    [
        (None, ("default", "vm"), "there is no Secret istio.default in namespace vm"),
        (None, ("default", "vm"), "there is no service account default"),
        (None, ("default", "none"), "there is no namespace none; `kubectl create namespace none`"),
        (
            {"life": datetime.timedelta(days=-1)},
            ("default", "vm", "all"),
            "cert-chain.pem ended on 20",
        ),
        ({"root_cert": b"x"}, ("default", "vm"), "root-cert.pem is no certificate in PEM"),
        ({"cert_chain": b""}, ("default", "vm", "all"), "has no cert-chain.pem"),
        ({"key": b"x"}, ("default", "vm", "all"), "key.pem is no private key in PEM"),
        ({}, ("Default", "vm"), "'Default' cannot be the name of a service account"),
        ({}, ("default", "../vm"), "'../vm' cannot be the name of a namespace"),
        ({}, ("default", "vm", "some"), "invalid choice: 'some'"),
        ({}, ("default", "vm", "-o", "/proc/1/x"), "/proc/1/x cannot be made"),
    ],
)
def test_what_is_wrong_with_certificate_files_is_said(
    admin: Admin, api: Cluster, secret: dict[str, Any] | None, words: tuple[str, ...], said: str
) -> None:
    if secret is not None:
        api.create(objects.machine_secret("istio.default", "vm", **secret))
    done = admin.mesh("certs", *words)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(admin.home.glob("*.pem"))


def test_a_key_of_another_certificate_is_refused(admin: Admin, api: Cluster) -> None:
    one, other = (objects.machine_secret("istio.default", "vm") for _ in range(2))
    one["data"]["key.pem"] = other["data"]["key.pem"]
    api.create(one)
    done = admin.mesh("certs", "default", "vm", "all")
    assert done.returncode == 65
    assert "key.pem is not the key of cert-chain.pem" in done.stderr


def test_a_full_disk_leaves_nothing_half_written(admin: Admin, api: Cluster) -> None:
    full = admin.home / "full"
    full.mkdir()
    script = """
        mount -t tmpfs -o size=4k tmpfs full
        dd if=/dev/zero of=full/other bs=4k count=1 2>/dev/null
        status=0; "$@" || status=$?
        ls full
        exit $status
    """
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-ec",
            script,
            "sh",
            *admin.argv("cluster-env", "-o", "full"),
        ],
        env=admin.environment,
        cwd=admin.home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 73, done.stderr
    assert "full/cluster.env cannot be written: No space left on device" in done.stderr
    assert done.stdout == "other\n"


def test_a_server_that_freezes_or_dies_is_told_and_the_next_run_works(
    admin: Admin, api: Cluster
) -> None:
    api.kill()
    done = admin.mesh("cluster-env")
    assert done.returncode == 75
    assert f"the API server {api.url} does not answer: Connection refused" in done.stderr
    api.start()
    admin.did("cluster-env")
    api.stop_answering()
    done = admin.mesh("cluster-env")
    api.answer_again()
    assert done.returncode == 75
    assert "accepts connections and does not answer" in done.stderr
    # In the middle: it waits for an address while the server goes away.
    admin.did("load-balancers", "--apply")
    process = wait_for_addresses(admin)
    assert process.stderr is not None
    process.stderr.readline()
    api.kill()
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 75
    assert "does not answer" in errors
    api.start()
    give_all(api)
    admin.did("dnsmasq")
    assert admin.read("kubedns") == KUBEDNS


def test_a_server_that_is_started_anew_meanwhile_is_waited_for(admin: Admin, api: Cluster) -> None:
    admin.did("load-balancers", "--apply")
    process = wait_for_addresses(admin)
    assert process.stderr is not None
    process.stderr.readline()
    api.kill()
    for line in process.stderr:
        if "does not answer" in line:
            break
    api.start()
    give_all(api)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert admin.read("kubedns") == KUBEDNS


def test_doctor_names_what_a_classic_host_lacks(admin: Admin, api: Cluster) -> None:
    api.create(objects.service("istio-pilot", objects.ISTIO, 15011))
    done = admin.mesh("doctor", "-n", "vm")
    assert done.returncode == 1
    assert "BAD  load balancer istio-pilot-ilb: there is no such Service" in done.stdout
    assert "BAD  service account default: is not in namespace vm" in done.stdout
    assert (
        "BAD  certificate files: there is no Secret istio.default in namespace vm" in done.stdout
    )
    admin.did("load-balancers", "--apply")
    give_all(api)
    api.create(objects.account("default", "vm"), objects.machine_secret("istio.default", "vm"))
    done = admin.mesh("doctor", "-n", "vm")
    assert done.returncode == 0, done.stdout
    assert f"ok   API server: {api.url}, v1." in done.stdout
    assert "ok   networks of services: 10.61.0.0/20, fd00:61::/112" in done.stdout


def test_many_at_once_apply_the_same_and_nothing_is_lost(admin: Admin, api: Cluster) -> None:
    done: list[subprocess.CompletedProcess[str]] = []

    def apply() -> None:
        done.append(admin.mesh("load-balancers", "--apply"))

    admin.did("load-balancers", "--apply", "--release", "0.5")
    threads = [threading.Thread(target=apply) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.returncode for each in done] == [0] * 5, [each.stderr for each in done]
    found = api.request("GET", path("istio-pilot-ilb", objects.ISTIO))
    assert {port["port"] for port in found["spec"]["ports"]} == {15005, 8080, 15010, 15011}
