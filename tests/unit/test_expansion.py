"""The texts of a classic mesh, line by line as each release has them."""

import pytest

from istio_hostagent.expansion import clusterenv, dnsmasq, goyaml, loadbalancers, releases

# The addresses of the documented example.
TARGETS = {
    "dns": dnsmasq.Target("10.150.0.7"),
    "mixer": dnsmasq.Target("10.150.0.8"),
    "pilot": dnsmasq.Target("10.150.0.6"),
    "ca": dnsmasq.Target("10.150.0.9"),
}
EARLIEST = """\
server=/svc.cluster.local/10.150.0.7
address=/istio-mixer/10.150.0.8
address=/mixer-server/10.150.0.8
address=/istio-pilot/10.150.0.6
address=/istio-ca/10.150.0.9
address=/istio-mixer.istio-system/10.150.0.8
address=/mixer-server.istio-system/10.150.0.8
address=/istio-pilot.istio-system/10.150.0.6
address=/istio-ca.istio-system/10.150.0.9
"""
USUAL = """\
server=/svc.cluster.local/10.150.0.7
address=/istio-mixer/10.150.0.8
address=/istio-pilot/10.150.0.6
address=/istio-ca/10.150.0.9
address=/istio-mixer.istio-system/10.150.0.8
address=/istio-pilot.istio-system/10.150.0.6
address=/istio-ca.istio-system/10.150.0.9
"""
LATEST = """\
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


@pytest.mark.parametrize(
    ("release", "text"),
    [
        ("0.2.7", EARLIEST),
        *((each, USUAL) for each in ("0.2.9", "0.2.12", "0.3.0", "0.4", "0.5.1", "0.6", "0.7.1")),
        *((each, LATEST) for each in ("0.8.0", "1.0.0", "1.0.9", "v1.0", "1.0")),
    ],
)
def test_kubedns_has_the_lines_of_the_release(release: str, text: str) -> None:
    assert dnsmasq.render(releases.parse(release), TARGETS, "istio-system") == text


def test_kubedns_asks_another_port_where_the_name_server_has_one() -> None:
    targets = TARGETS | {"dns": dnsmasq.Target("192.0.2.1", 30053)}
    text = dnsmasq.render(releases.parse("1.0"), targets, "mesh", domain="svc.example")
    assert text.startswith("server=/svc.example/192.0.2.1#30053\naddress=/istio-policy/")
    assert "address=/istio-pilot.mesh/10.150.0.6\n" in text


@pytest.mark.parametrize(
    ("release", "text"),
    [
        *((each, "ISTIO_SERVICE_CIDR=10.96.0.0/12\n") for each in ("0.2.7", "0.2.12", "0.3.0")),
        *(
            (
                each,
                "ISTIO_SERVICE_CIDR=10.96.0.0/12\nISTIO_SYSTEM_NAMESPACE=istio-system\n"
                "CONTROL_PLANE_AUTH_POLICY=MUTUAL_TLS\n",
            )
            for each in ("0.4.0", "0.5.1", "0.7.1", "0.8.0")
        ),
        *(
            (
                each,
                "ISTIO_SERVICE_CIDR=10.96.0.0/12\nISTIO_SYSTEM_NAMESPACE=istio-system\n"
                "ISTIO_CP_AUTH=MUTUAL_TLS\n",
            )
            for each in ("1.0.0", "1.0.9", "1.0")
        ),
    ],
)
def test_cluster_env_has_the_lines_of_the_release(release: str, text: str) -> None:
    made = clusterenv.render(
        releases.parse(release), ["10.96.0.0/12"], "istio-system", "MUTUAL_TLS"
    )
    assert made == text


@pytest.mark.parametrize(
    "text", ["", "1", "0.2.6", "0.1.0", "1.1", "1.5.0", "2.0", "x", "1.0.0.0"]
)
def test_what_is_no_classic_release_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no release"):
        releases.parse(text)


@pytest.mark.parametrize(
    ("release", "pilot", "mixer", "authority"),
    [
        ("0.2.12", [8080], 9091, "istio-ca-ilb"),
        # 15003 is what the host's agent of 0.3 asks for.
        ("0.3.0", [15003, 8080], 9091, "istio-ca-ilb"),
        ("0.4.0", [15003], 15004, "istio-ca-ilb"),
        ("0.5.1", [15003, 8080], 15004, "istio-ca-ilb"),
        # Without 15010 there is no endpoint discovery.
        ("0.7.1", [15005, 8080, 15010], 15004, "istio-ca-ilb"),
        ("0.8.0", [15005, 8080, 15010, 15011], 15004, "citadel-ilb"),
        ("1.0.9", [15005, 8080, 15010, 15011], 15004, "citadel-ilb"),
    ],
)
def test_load_balancers_have_the_ports_of_the_release(
    release: str, pilot: list[int], mixer: int, authority: str
) -> None:
    found = {
        each.role: each
        for each in loadbalancers.of_release(releases.parse(release), "istio-system")
    }
    assert [each.number for each in found["pilot"].ports] == pilot
    assert [each.number for each in found["mixer"].ports] == [mixer]
    assert found["ca"].name == authority
    assert [each.number for each in found["ca"].ports] == [8060]
    # Where the pods of kube-dns are.
    assert (found["dns"].namespace, found["dns"].ports[0].protocol) == ("kube-system", "UDP")


def test_several_ports_of_a_service_have_names() -> None:
    for text in ("0.2.7", "0.3", "0.5", "0.7", "0.8", "1.0"):
        for balancer in loadbalancers.of_release(releases.parse(text), "istio-system"):
            service = loadbalancers.service(balancer, loadbalancers.INTERNAL)
            ports = service["spec"]["ports"]
            assert len(ports) == 1 or all(port.get("name") for port in ports)


# What `sigs.k8s.io/yaml` 1.6 prints, run for these values.
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("true", '"true"'),
        ("off", '"off"'),
        ("y", '"y"'),
        ("null", '"null"'),
        ("~", '"~"'),
        ("1", '"1"'),
        ("0x1f", '"0x1f"'),
        ("1_000", '"1_000"'),
        ("010", '"010"'),
        ("1.5", '"1.5"'),
        ("1e3", '"1e3"'),
        (".5", '".5"'),
        ("12:30:45", '"12:30:45"'),
        ("2026-11-30", '"2026-11-30"'),
        ("10.0.0.1", "10.0.0.1"),
        ("0.1.2", "0.1.2"),
        ("1.2.3-rc.1", "1.2.3-rc.1"),
        ("*", "'*'"),
        ("- x", "'- x'"),
        ("a: b", "'a: b'"),
        ("a #b", "'a #b'"),
        ("it's", "it's"),
        ("'quoted'", "'''quoted'''"),
        ('{"a":1}', "'{\"a\":1}'"),
        (" leading", "' leading'"),
        ("tab\there", '"tab\\there"'),
        ("grüß", "grüß"),
        (True, "true"),
        (None, "null"),
        (15020, "15020"),
        (0.5, "0.5"),
        (100.0, "100"),
        (1e-05, "1e-05"),
        (12.25, "12.25"),
        ([], "[]"),
        ({}, "{}"),
    ],
)
def test_yaml_is_written_as_kubernetes_tools_do(value: object, text: str) -> None:
    assert goyaml.dump({"key": value}) == f"key: {text}\n"


def test_keys_are_sorted_as_kubernetes_tools_do() -> None:
    keys = ["a10", "a9", "ISTIO_METAJSON", "ISTIO_META_X", "b", "A", "a", "x-y", "xa"]
    assert list(goyaml.dump(dict.fromkeys(keys, "v")).replace(": v", "").split()) == [
        "A", "ISTIO_META_X", "ISTIO_METAJSON", "a", "a9", "a10", "b", "x-y", "xa",
    ]  # fmt: skip


def test_lists_and_texts_of_several_lines_are_written_as_kubernetes_tools_do() -> None:
    value = {"z": ["one", {"b": 1, "a": ["x"]}], "text": "one\n  two\n", "bare": "one\ntwo"}
    assert goyaml.dump(value) == (
        "bare: |-\n  one\n  two\ntext: |\n  one\n    two\nz:\n- one\n- a:\n  - x\n  b: 1\n"
    )
