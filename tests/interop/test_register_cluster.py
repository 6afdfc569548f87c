"""`register` and `deregister` against a real API server: which objects there are afterwards."""

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.lab import cluster as clusters
from tests.lab.cluster import ApiError, Cluster
from tests.lab.netns import PYTHON
from tests.lab.waiting import eventually
from tests.peers import build

CHECKOUT = Path(__file__).parents[2]
NAMESPACE = "onprem"
WRITERS = 20
CORE = f"/api/v1/namespaces/{NAMESPACE}"
ISTIO = f"/apis/networking.istio.io/v1/namespaces/{NAMESPACE}"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    with clusters.needed(build.directory("kubernetes"), directory) as made:
        made.create(clusters.namespace_object(NAMESPACE))
        made.add_istio(build.directory("istio") / "istioctl")
        yield made


@pytest.fixture(scope="module")
def kubeconfig(api: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return api.write_kubeconfig(tmp_path_factory.mktemp("admin") / "config")


def start(kubeconfig: Path, *words: str) -> subprocess.Popen[str]:
    environment = {"PATH": os.defpath, "PYTHONPATH": str(CHECKOUT), "KUBECONFIG": str(kubeconfig)}
    command = [PYTHON, "-m", "istio_hostagent", words[0], "-n", NAMESPACE, *words[1:]]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def verb(kubeconfig: Path, *words: str, status: int = 0) -> str:
    """What it prints, on whichever output; it must end with this status."""
    process = start(kubeconfig, *words)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, out + err
    return out + err


def find(api: Cluster, path: str) -> dict[str, Any] | None:
    try:
        return api.request("GET", path)
    except ApiError as error:
        if error.status != 404:
            raise
        return None


def table(api: Cluster, name: str) -> list[tuple[str, str, int]]:
    """Every address with every port that the Endpoints have, as often as they have it."""
    item = find(api, f"{CORE}/endpoints/{name}") or {}
    return sorted(
        (address["ip"], port["name"], port["port"])
        for subset in item.get("subsets") or ()
        for address in subset.get("addresses") or ()
        for port in subset["ports"]
    )


def test_the_documented_example_makes_the_documented_objects(
    api: Cluster, kubeconfig: Path
) -> None:
    said = verb(kubeconfig, "register", "svc1", "1.2.3.4", "http:7000")
    assert said == "svc1.onprem at 1.2.3.4, ports 7000 (http): registered\n"
    service = api.request("GET", f"{CORE}/services/svc1")
    accounts = {"alpha.istio.io/kubernetes-serviceaccounts": "default"}
    assert accounts.items() <= service["metadata"]["annotations"].items()
    [port] = service["spec"]["ports"]
    wanted = {"name": "http", "port": 7000, "protocol": "TCP", "targetPort": 7000}
    assert wanted.items() <= port.items()
    assert service["spec"]["clusterIP"] and "selector" not in service["spec"]
    endpoints = api.request("GET", f"{CORE}/endpoints/svc1")
    assert accounts.items() <= endpoints["metadata"]["annotations"].items()
    assert endpoints["subsets"] == [
        {
            "addresses": [{"ip": "1.2.3.4"}],
            "ports": [{"name": "http", "port": 7000, "protocol": "TCP"}],
        }
    ]
    said = verb(kubeconfig, "register", "svc1", "1.2.3.4", "http:7000")
    assert "registered already" in said
    assert api.request("GET", f"{CORE}/endpoints/svc1") == endpoints
    assert api.request("GET", f"{CORE}/services/svc1") == service

    said = verb(kubeconfig, "deregister", "svc1", "1.2.3.5", status=1)
    assert "has no address 1.2.3.5" in said
    verb(kubeconfig, "deregister", "svc1", "1.2.3.4")
    assert find(api, f"{CORE}/services/svc1") is None
    assert find(api, f"{CORE}/endpoints/svc1") is None
    said = verb(kubeconfig, "deregister", "svc1", "1.2.3.4", status=1)
    assert "Service svc1 in namespace onprem has no address 1.2.3.4" in said


def test_ports_labels_and_addresses_join_what_is_there(api: Cluster, kubeconfig: Path) -> None:
    verb(kubeconfig, "register", "web", "1.2.3.4", "80", "-l", "version=v1", "-a", "note=x")
    verb(kubeconfig, "register", "web", "1.2.3.5", "http:80", "grpc:90", "-l", "zone=a")
    verb(kubeconfig, "register", "web", "1.2.3.4", "other:80", "grpc:90")
    both = [("grpc", 90), ("http", 80)]
    wanted = sorted((ip, *port) for ip in ("1.2.3.4", "1.2.3.5") for port in both)
    assert table(api, "web") == wanted
    service = api.request("GET", f"{CORE}/services/web")
    assert service["metadata"]["labels"] == {"version": "v1", "zone": "a"}
    assert {each["port"] for each in service["spec"]["ports"]} == {80, 90}
    verb(kubeconfig, "deregister", "web", "1.2.3.4", "--port", "80")
    assert ("1.2.3.4", "http", 80) not in table(api, "web")
    assert ("1.2.3.4", "grpc", 90) in table(api, "web")
    verb(kubeconfig, "deregister", "web", "1.2.3.4")
    verb(kubeconfig, "deregister", "web", "1.2.3.5")
    assert find(api, f"{CORE}/services/web") is None


def test_each_address_may_have_an_account_of_its_own(api: Cluster, kubeconfig: Path) -> None:
    for address, account in (("1.2.3.4", "one"), ("1.2.3.5", "two"), ("1.2.3.4", "one")):
        verb(kubeconfig, "register", "shared", address, "80", "-s", account)
    found = api.request("GET", f"{CORE}/services/shared")["metadata"]["annotations"]
    assert found["alpha.istio.io/kubernetes-serviceaccounts"] == "one,two"


def test_what_others_have_made_or_added_stays(api: Cluster, kubeconfig: Path) -> None:
    ports = [{"name": "http", "port": 80}]
    kind = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "theirs"}}
    api.request("POST", f"{CORE}/services", {**kind, "spec": {"ports": ports}})
    subset = {
        "addresses": [{"ip": "9.9.9.9", "nodeName": "n1"}],
        "notReadyAddresses": [{"ip": "9.9.9.8"}],
        "ports": ports,
    }
    kind = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "theirs"}}
    api.request("POST", f"{CORE}/endpoints", {**kind, "subsets": [subset]})
    verb(kubeconfig, "register", "theirs", "1.2.3.4", "80")
    item = api.request("GET", f"{CORE}/endpoints/theirs")
    [found] = item["subsets"]
    assert {"ip": "9.9.9.9", "nodeName": "n1"} in found["addresses"]
    assert found["notReadyAddresses"] == [{"ip": "9.9.9.8"}]
    item["metadata"]["annotations"]["ticket"] = "4711"
    api.request("PUT", f"{CORE}/endpoints/theirs", item)
    verb(kubeconfig, "register", "theirs", "1.2.3.5", "80")
    verb(kubeconfig, "deregister", "theirs", "1.2.3.4")
    item = api.request("GET", f"{CORE}/endpoints/theirs")
    assert item["metadata"]["annotations"]["ticket"] == "4711"
    for address in ("1.2.3.5", "9.9.9.9", "9.9.9.8"):
        verb(kubeconfig, "deregister", "theirs", address)
    # Nobody's address is left, and the objects are not ours to delete.
    assert find(api, f"{CORE}/services/theirs") is not None
    assert find(api, f"{CORE}/endpoints/theirs") is not None


def test_a_service_that_selects_pods_is_refused(api: Cluster, kubeconfig: Path) -> None:
    spec = {"ports": [{"port": 80}], "selector": {"app": "pods"}}
    kind = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pods"}}
    api.request("POST", f"{CORE}/services", {**kind, "spec": spec})
    said = verb(kubeconfig, "register", "pods", "1.2.3.4", "80", status=77)
    assert "selects pods" in said
    assert find(api, f"{CORE}/endpoints/pods") is None


def register_all(kubeconfig: Path, *options: str, verb_name: str = "register") -> list[int]:
    """Twenty at once: ten addresses, each by two."""

    def run(number: int) -> int:
        words = [verb_name, "many", f"1.2.3.{number // 2 + 1}", *options]
        process = start(kubeconfig, *words)
        out, err = process.communicate(timeout=240)
        assert process.returncode in (0, 1), out + err
        return process.returncode

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(run, range(WRITERS)))


def test_twenty_at_once_lose_and_double_nothing(api: Cluster, kubeconfig: Path) -> None:
    assert register_all(kubeconfig, "http:80", "90") == [0] * WRITERS
    addresses = [f"1.2.3.{n + 1}" for n in range(WRITERS // 2)]
    wanted = sorted((ip, *p) for ip in addresses for p in (("http", 80), ("90", 90)))
    assert table(api, "many") == wanted
    # Of two who take the same away one does it.
    done = register_all(kubeconfig, verb_name="deregister")
    assert sorted(done) == [0] * (WRITERS // 2) + [1] * (WRITERS // 2)
    assert find(api, f"{CORE}/endpoints/many") is None
    assert find(api, f"{CORE}/services/many") is None


def test_those_who_come_while_others_go_are_not_lost(api: Cluster, kubeconfig: Path) -> None:
    for number in range(5):
        verb(kubeconfig, "register", "turn", f"1.2.4.{number + 1}", "80")
    with ThreadPoolExecutor(10) as pool:
        going = [
            pool.submit(verb, kubeconfig, "deregister", "turn", f"1.2.4.{n + 1}") for n in range(5)
        ]
        coming = [
            pool.submit(verb, kubeconfig, "register", "turn", f"1.2.5.{n + 1}", "80")
            for n in range(5)
        ]
        for each in (*going, *coming):
            each.result()
    assert table(api, "turn") == [(f"1.2.5.{n + 1}", "http", 80) for n in range(5)]
    assert find(api, f"{CORE}/services/turn") is not None
    for number in range(5):
        verb(kubeconfig, "deregister", "turn", f"1.2.5.{number + 1}")
    assert find(api, f"{CORE}/services/turn") is None


def has_addresses(api: Cluster, name: str) -> bool:
    """Whether there is one; a server that does not answer in time has not said so."""
    try:
        return bool(table(api, name))
    except OSError:
        return False


def test_an_api_server_that_is_killed_meanwhile_loses_and_doubles_nothing(
    api: Cluster, kubeconfig: Path
) -> None:
    writers = [
        start(kubeconfig, "register", "killed", f"1.2.6.{n + 1}", "80") for n in range(WRITERS)
    ]
    eventually(lambda: has_addresses(api, "killed"), "they have begun", within_s=120)
    api.kill()
    api.start()
    done = []
    for writer in writers:
        out, err = writer.communicate(timeout=240)
        # Who had to wait too long says so.
        assert writer.returncode in (0, 75), out + err
        done.append(writer.returncode)
    for number, status in enumerate(done):
        if status:
            verb(kubeconfig, "register", "killed", f"1.2.6.{number + 1}", "80")
    wanted = sorted((f"1.2.6.{n + 1}", "http", 80) for n in range(WRITERS))
    assert table(api, "killed") == wanted


def test_who_may_not_is_told_so_and_changes_nothing(api: Cluster, tmp_path: Path) -> None:
    nobody = api.write_kubeconfig(tmp_path / "nobody", token=clusters.TOKENS[clusters.NOBODY])
    said = verb(nobody, "register", "secret", "1.2.3.4", "80", status=77)
    assert "forbidden" in said and "services" in said
    assert find(api, f"{CORE}/services/secret") is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("register", "Web", "1.2.3.4", "80"), "lower-case"),
        (("register", "9web", "1.2.3.4", "80"), "a letter first"),
        (("register", "web", "169.254.1.1", "80"), "link-local"),
        (("register", "web", "1.2.3.4", "80", "-l", "a b=c"), "no key of a label"),
        (("register", "web", "1.2.3.4", "80", "--check", "tcp"), "for Consul"),
        (("register", "web", "1.2.3.4", "http:80", "http:81"), "two ports have the name http"),
        (("deregister", "web", "1.2.3.4", "--port", "80", "--entry"), "as a whole"),
    ],
)
def test_a_mistake_is_one_sentence(kubeconfig: Path, words: tuple[str, ...], said: str) -> None:
    assert said in verb(kubeconfig, *words, status=64).splitlines()[-1]


def test_the_installed_program_finds_its_libraries(kubeconfig: Path, tmp_path: Path) -> None:
    installed = (CHECKOUT / "systemd" / "istio-hostagent").read_text()
    program = tmp_path / "istio-hostagent"
    program.write_text(installed.replace("/usr/share/istio-hostagent", str(CHECKOUT)))
    program.chmod(0o755)
    words = ["deregister", "-n", NAMESPACE, "-c", str(kubeconfig), "nothing", "1.2.3.4"]
    done = subprocess.run(
        [str(program), *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "has no address 1.2.3.4" in done.stderr


def test_a_file_that_leads_to_no_cluster_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "config"
    bad.write_text(json.dumps({"kind": "Config", "current-context": "nowhere"}))
    said = verb(bad, "register", "web", "1.2.3.4", "80", status=78)
    assert str(bad) in said and "nowhere" in said


def test_entries_of_today_are_objects_of_their_own(api: Cluster, kubeconfig: Path) -> None:
    verb(kubeconfig, "register", "vms", "1.2.3.4", "http:8080", "--entry", "-s", "web")
    verb(kubeconfig, "register", "vms", "fd00::5", "http:8080", "--entry", "-l", "version=v2")
    service = api.request("GET", f"{ISTIO}/serviceentries/vms")["spec"]
    assert service["hosts"] == ["vms.onprem.svc.cluster.local"]
    assert service["workloadSelector"] == {"labels": {"app": "vms"}}
    assert service["ports"] == [{"name": "http", "number": 8080, "protocol": "HTTP"}]
    one = api.request("GET", f"{ISTIO}/workloadentries/vms-1.2.3.4")["spec"]
    assert one["address"] == "1.2.3.4" and one["serviceAccount"] == "web"
    other = api.request("GET", f"{ISTIO}/workloadentries/vms-fd00--5")["spec"]
    assert other["labels"] == {"app": "vms", "version": "v2"}
    said = verb(kubeconfig, "register", "vms", "1.2.3.4", "http:8080", "--entry", "-s", "web")
    assert "registered already" in said
    said = verb(kubeconfig, "deregister", "vms", "9.9.9.9", "--entry", status=1)
    assert "no WorkloadEntry" in said
    verb(kubeconfig, "deregister", "vms", "1.2.3.4", "--entry")
    assert find(api, f"{ISTIO}/serviceentries/vms") is not None
    verb(kubeconfig, "deregister", "vms", "fd00::5", "--entry")
    assert find(api, f"{ISTIO}/serviceentries/vms") is None


def test_names_of_ports_are_unique_in_both_forms(api: Cluster, kubeconfig: Path) -> None:
    wanted = {"http": 80, "http-8080": 8080}
    for options in ((), ("--entry",)):
        verb(kubeconfig, "register", "two", "1.2.7.1", "80", "8080", *options)
        for port, other in (("http:81", "http-81:81"), ("8080", "http-8080:8080")):
            said = verb(kubeconfig, "register", "two", "1.2.7.2", port, *options, status=77)
            assert "port 80 has the name http already" in said
            assert other in said
    ports = api.request("GET", f"{CORE}/services/two")["spec"]["ports"]
    assert {each["name"]: each["port"] for each in ports} == wanted
    entry = api.request("GET", f"{ISTIO}/workloadentries/two-1.2.7.1")["spec"]
    assert entry["ports"] == wanted
    assert find(api, f"{ISTIO}/workloadentries/two-1.2.7.2") is None
    assert {address for address, _, _ in table(api, "two")} == {"1.2.7.1"}


def test_an_entry_of_somebody_else_is_not_deleted(api: Cluster, kubeconfig: Path) -> None:
    kind = {"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry"}
    spec = {"address": "1.2.8.1", "labels": {"app": "his"}}
    made = {**kind, "metadata": {"name": "his-1.2.8.1"}, "spec": spec}
    api.request("POST", f"{ISTIO}/workloadentries", made)
    said = verb(kubeconfig, "deregister", "his", "1.2.8.1", "--entry", status=77)
    assert "made by somebody else" in said
    assert find(api, f"{ISTIO}/workloadentries/his-1.2.8.1") is not None


def test_what_a_deregistration_was_cut_off_before_goes_with_the_next(
    api: Cluster, kubeconfig: Path
) -> None:
    verb(kubeconfig, "register", "cut", "1.2.9.1", "80", "--entry")
    api.request("DELETE", f"{ISTIO}/workloadentries/cut-1.2.9.1")
    verb(kubeconfig, "deregister", "cut", "1.2.9.1", "--entry", status=1)
    assert find(api, f"{ISTIO}/serviceentries/cut") is None
