"""What is started: arguments, environments, and the tree that pilot-agent finds."""

import json
from ipaddress import ip_address

import pytest

from istio_hostagent.config import model
from istio_hostagent.supervise import specs

IDENTITY = model.IdentitySettings(
    ca_host="istiod.istio-system.svc",
    ca_port=15012,
    server_names=("istiod.istio-system.svc",),
    trust_domain="example.org",
    namespace="vms",
    service_account="web",
    cluster_id="Kubernetes",
    token_file="/var/run/secrets/tokens/istio-token",
    root_file="/etc/certs/root-cert.pem",
    output_dir="/etc/certs",
    ttl_s=86400,
)
FACTS = model.HostFacts(
    1337, 1338, addresses=(ip_address("192.0.2.7"), ip_address("2001:db8::7")), hostname="vm-1"
)


def build(**settings: object) -> model.Config:
    proxy = model.ProxySettings()._replace(**settings)  # type: ignore[arg-type]
    return model.Config(model.Redirection(), IDENTITY, proxy)


def pilot_environment(written: dict[str, str], **settings: object) -> dict[str, str]:
    config = build(environment=tuple(written.items()), **settings)
    spec = specs.pilot_agent_spec(config, FACTS, "/usr/local/bin/pilot-agent", "/run/x/pilot")
    return dict(spec.environment)


def test_envoy_is_started_as_the_proxy_user_with_nothing_in_its_environment() -> None:
    config = build(concurrency=3, log_level="info", status_port=16021)
    spec = specs.envoy_spec(config, FACTS, "/usr/bin/envoy", "/run/x/envoy.json", "/run/x")
    assert spec.argv[:3] == ("/usr/bin/envoy", "-c", "/run/x/envoy.json")
    text = " ".join(spec.argv)
    assert "-l info" in text
    assert "--concurrency 3" in text
    assert "--disable-hot-restart" not in text
    assert "--component-log-level" not in text
    assert "--local-address-ip-version" not in text
    assert (spec.user_uid, spec.user_gid) == (1337, 1338)
    assert spec.environment == ()
    assert [door.port for door in spec.doors] == [16021]
    assert (spec.directory, spec.directories) == ("/run/x", ("0", "1", "shared"))
    assert spec.control_plane is None


def test_one_that_takes_over_has_a_number_a_place_and_an_admin_interface_of_its_own() -> None:
    spec = specs.envoy_spec(build(restart_drain_s=7.5), FACTS, "/envoy", "/b", "/run/x")
    text = " ".join(spec.argv)
    assert "--socket-path /run/x/shared/hot" in text
    assert "--drain-time-s 8 --parent-shutdown-time-s 10" in text
    first, second, third = (specs.launched(spec, 4711, epoch) for epoch in range(3))
    for epoch, each in enumerate((first, second, third)):
        added = ("--base-id", "4711", "--restart-epoch", str(epoch))
        assert each.argv[: len(spec.argv) + 4] == (*spec.argv, *added)
    assert [each.working_directory for each in (first, second, third)] == [
        "/run/x/0",
        "/run/x/1",
        "/run/x/0",
    ]
    assert second.admin.socket == "/run/x/1/envoy.sock"
    assert specs.may_succeed(first, spec)
    for changed in (
        {"shutdown_s": 0},
        {"is_net_admin": True},
        {"has_unit": False},
        {"user_uid": 5},
    ):
        assert not specs.may_succeed(first, spec._replace(**changed))


@pytest.mark.parametrize("why", ["told not to", "no memory to share"])
def test_without_hot_restart_envoy_is_told_so_and_has_no_number(why: str) -> None:
    is_told = why == "told not to"
    facts = FACTS._replace(has_shared_memory=is_told)
    config = build(restart_drain_s=0.0) if is_told else build()
    spec = specs.envoy_spec(config, facts, "/envoy", "/b", "/run/x")
    assert "--disable-hot-restart" in spec.argv
    assert "--socket-path" not in spec.argv
    launch = specs.launched(spec, 4711, 0)
    assert launch.argv == spec.argv
    assert launch.working_directory == "/run/x/0"
    assert not specs.may_succeed(launch, spec)


def test_one_with_a_control_plane_takes_over_once_it_has_what_it_is_to_serve() -> None:
    istiod = model.Istiod("istiod.example", 15012, "istiod.example")
    spec = specs.envoy_spec(build(istiod=istiod), FACTS, "/envoy", "/b", "/run/x")
    assert "--config-yaml" not in specs.launched(spec, 1, 0).argv
    later = specs.launched(spec, 1, 1).argv
    laid_over = json.loads(later[later.index("--config-yaml") + 1])
    patience = {"initial_fetch_timeout": "31536000s"}
    assert laid_over == {"dynamic_resources": {"cds_config": patience, "lds_config": patience}}


def test_levels_of_components_are_given_apart() -> None:
    config = build(log_level="info,misc:error,filter:debug")
    argv = specs.envoy_spec(config, FACTS, "/envoy", "/b", "/").argv
    assert argv[argv.index("-l") + 1] == "info"
    assert argv[argv.index("--component-log-level") + 1] == "misc:error,filter:debug"


def test_host_with_ipv6_only_says_so() -> None:
    facts = FACTS._replace(addresses=(ip_address("2001:db8::7"),))
    argv = specs.envoy_spec(build(), facts, "/envoy", "/b", "/").argv
    assert argv[-2:] == ("--local-address-ip-version", "v6")


def test_a_proxy_listens_where_the_rules_lead_and_nowhere_if_they_are_not_ours() -> None:
    def listens(redirection: model.Redirection) -> tuple[int, ...]:
        config = build()._replace(redirection=redirection)
        return specs.envoy_spec(config, FACTS, "/usr/bin/envoy", "/e.json", "/e").listens

    captured = model.PortSet(ranges=((80, 80),))
    assert listens(model.Redirection(inbound=captured)) == (15001, 15006)
    moved = model.Redirection(inbound=captured, outbound_capture_port=15101)
    assert listens(moved) == (15101, 15006)
    # A control plane may tell a proxy that nothing is captured.
    assert listens(model.Redirection()) == ()
    assert listens(model.Redirection(inbound=captured, is_managed=False)) == ()


def test_validation_opens_nothing_and_has_no_readiness() -> None:
    spec = specs.validate_spec(build(), FACTS, "/envoy", "/b")
    assert spec.argv[-2:] == ("--mode", "validate")
    assert (spec.doors, spec.user_uid) == ((), 1337)


@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        ({}, specs.ENVOY, ("/usr/local/bin/envoy", "/usr/bin/envoy")),
        ({}, specs.PILOT_AGENT, ("/usr/local/bin/pilot-agent", "/usr/bin/pilot-agent")),
        (
            {"bin_base": "/opt/istio"},
            specs.PILOT_AGENT,
            ("/opt/istio/pilot-agent", "/usr/local/bin/pilot-agent", "/usr/bin/pilot-agent"),
        ),
        ({"envoy": "/opt/envoy"}, specs.ENVOY, ("/opt/envoy",)),
        (
            {"envoy": "/opt/envoy"},
            specs.PILOT_AGENT,
            ("/usr/local/bin/pilot-agent", "/usr/bin/pilot-agent"),
        ),
    ],
    ids=["envoy", "pilot-agent", "bin-base", "named", "named-is-for-envoy-only"],
)
def test_binaries_are_looked_for_in_order(
    settings: dict[str, object], name: str, expected: tuple[str, ...]
) -> None:
    assert specs.binary_candidates(build(**settings).proxy, name) == expected


def test_pilot_agent_finds_our_certificates_and_the_files_of_the_operator() -> None:
    config = build(agent_flags=("--proxyLogLevel", "debug"))
    spec = specs.pilot_agent_spec(config, FACTS, "/usr/local/bin/pilot-agent", "/run/x/pilot")
    log = ("--log_target", "stderr")
    assert spec.argv == ("/usr/local/bin/pilot-agent", "proxy", *log, "--proxyLogLevel", "debug")
    assert spec.directory == "/run/x/pilot"
    assert (spec.user_uid, spec.user_gid) == (1337, 1338)
    doors = [(door.process, door.port) for door in spec.doors]
    assert doors == [("envoy", 15021), ("envoy", 15000), ("pilot-agent", 15020)]
    assert spec.control_plane == spec.doors[1]
    assert spec.directories == ("etc/istio/proxy", "var/run/secrets/workload-spiffe-uds")
    links = dict(spec.links)
    assert links["var/run/secrets/workload-spiffe-credentials"] == "/etc/certs"
    assert links["etc/istio/config/mesh"] == "/etc/istio/config/mesh"
    template = "var/lib/istio/envoy/envoy_bootstrap_tmpl.json"
    assert links[template] == f"/{template}"
    # With an ./etc/certs of its own, a root in there would win over ours.
    assert not any(path.startswith("etc/certs") for path in links)


def test_pilot_agent_finds_a_secret_server_that_it_cannot_replace() -> None:
    config = build(
        secret_socket="/run/x/secrets.sock",
        environment=(("WORKLOAD_IDENTITY_SOCKET_FILE", "spire.sock"),),
    )
    spec = specs.pilot_agent_spec(config, FACTS, "/pilot-agent", "/run/x/pilot")
    sockets = "var/run/secrets/workload-spiffe-uds"
    assert dict(spec.links)[f"{sockets}/socket"] == "/run/x/secrets.sock"
    # Its parent is root's, and pilot-agent ends a server that does not answer by removing it.
    assert sockets not in spec.directories
    assert "WORKLOAD_IDENTITY_SOCKET_FILE" not in dict(spec.environment)
    # Its own connection to the control plane is by files.
    assert dict(spec.links)["var/run/secrets/workload-spiffe-credentials"] == "/etc/certs"
    without = specs.pilot_agent_spec(build(), FACTS, "/pilot-agent", "/run/x/pilot")
    assert sockets in without.directories
    assert f"{sockets}/socket" not in dict(without.links)


def test_pilot_agent_is_handed_our_certificate_and_asks_for_none() -> None:
    environment = pilot_environment({"OUTPUT_CERTS": "/etc/certs", "PROV_CERT": "/etc/certs"})
    credentials = "./var/run/secrets/workload-spiffe-credentials"
    assert environment["PROV_CERT"] == credentials
    assert environment["XDS_ROOT_CA"] == f"{credentials}/root-cert.pem"
    assert environment["OUTPUT_CERTS"] == ""
    assert environment["CLOUD_PLATFORM"] == "none"
    assert environment["CA_ADDR"] == "istiod.istio-system.svc:15012"
    assert environment["POD_NAMESPACE"] == "vms"
    assert environment["SERVICE_ACCOUNT"] == "web"
    assert environment["TRUST_DOMAIN"] == "example.org"
    assert environment["POD_NAME"] == "vm-1"
    assert environment["INSTANCE_IP"] == "192.0.2.7"


def test_keys_of_the_files_are_passed_on_but_not_ours() -> None:
    environment = pilot_environment(
        {
            "ISTIO_META_NETWORK": "net-1",
            "ISTIO_METAJSON_LABELS": '{"app":"web"}',
            "CLOUD_PLATFORM": "aws",
            "XDS_ROOT_CA": "SYSTEM",
            "FILE_MOUNTED_CERTS": "true",
            "ISTIO_HOSTAGENT_MTLS": "strict",
            "LD_PRELOAD": "/tmp/x.so",
            "POD_NAMESPACE": "elsewhere",
        }
    )
    assert environment["ISTIO_META_NETWORK"] == "net-1"
    assert environment["ISTIO_METAJSON_LABELS"] == '{"app":"web"}'
    assert environment["CLOUD_PLATFORM"] == "aws"
    assert environment["XDS_ROOT_CA"].endswith("workload-spiffe-credentials/root-cert.pem")
    assert environment["POD_NAMESPACE"] == "vms"
    assert "ISTIO_HOSTAGENT_MTLS" not in environment
    assert "LD_PRELOAD" not in environment
    assert "FILE_MOUNTED_CERTS" not in environment


def test_address_and_name_can_be_set_and_no_address_is_left_out() -> None:
    address = ip_address("198.51.100.9")
    environment = pilot_environment({}, instance_ip=address, workload_name="db-0")
    assert environment["INSTANCE_IP"] == "198.51.100.9"
    assert environment["POD_NAME"] == "db-0"
    spec = specs.pilot_agent_spec(build(), FACTS._replace(addresses=()), "/p", "/d")
    assert "INSTANCE_IP" not in dict(spec.environment)


def test_the_address_is_the_one_that_the_route_to_the_mesh_says() -> None:
    facts = FACTS._replace(primary_address=FACTS.addresses[1])
    spec = specs.pilot_agent_spec(build(), facts, "/p", "/d")
    assert dict(spec.environment)["INSTANCE_IP"] == "2001:db8::7"


def test_ca_named_by_an_ipv6_address_is_bracketed() -> None:
    config = build()._replace(identity=IDENTITY._replace(ca_host="2001:db8::1"))
    environment = dict(specs.pilot_agent_spec(config, FACTS, "/p", "/d").environment)
    assert environment["CA_ADDR"] == "[2001:db8::1]:15012"


DEFAULT_TEXT = 'serviceCluster: "rawvm"\ncontrolPlaneAuthPolicy: "MUTUAL_TLS"\n'


@pytest.mark.parametrize(
    ("written", "settings", "expected"),
    [
        ({}, {}, DEFAULT_TEXT),
        (
            {"CONTROL_PLANE_AUTH_POLICY": "NONE"},
            {"service_cluster": "web"},
            'serviceCluster: "web"\ncontrolPlaneAuthPolicy: "NONE"\n',
        ),
        (
            {"PILOT_ADDRESS": "cp:15012"},
            {"discovery_address": "cp:15012"},
            'discoveryAddress: "cp:15012"\n',
        ),
        (
            {"ISTIO_PILOT_PORT": "15010"},
            {"discovery_address": "istiod.istio-system.svc:15010"},
            'discoveryAddress: "istiod.istio-system.svc:15010"\n',
        ),
        ({"PROXY_CONFIG": "concurrency: 2\n"}, {}, "concurrency: 2\n"),
        (
            {"PROXY_CONFIG": "concurrency: 2", "PILOT_ADDRESS": "cp:1"},
            {"discovery_address": "cp:1"},
            '<<:\n-\n  concurrency: 2\n- {"discoveryAddress": "cp:1"}\n',
        ),
        ({}, {"envoy": "/opt/envoy"}, DEFAULT_TEXT + 'binaryPath: "/opt/envoy"\n'),
    ],
    ids=[
        "default",
        "default-set",
        "pilot-address",
        "pilot-port",
        "own-text",
        "both",
        "named-envoy",
    ],
)
def test_proxy_config_is_composed_as_by_the_start_script(
    written: dict[str, str], settings: dict[str, object], expected: str
) -> None:
    assert pilot_environment(written, **settings)["PROXY_CONFIG"] == expected
