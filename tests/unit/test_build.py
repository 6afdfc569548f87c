"""From the three files to a configuration, or to every problem with its file and line."""

import time
from ipaddress import IPv4Address, ip_network

import pytest

from istio_hostagent.config import build, explain, layers, model
from istio_hostagent.errors import Problem

OWN = "/etc/istio-hostagent/hostagent.env"
CLUSTER = "/var/lib/istio/envoy/cluster.env"
SIDECAR = "/var/lib/istio/envoy/sidecar.env"

FACTS = model.HostFacts(
    proxy_uid=1337,
    proxy_gid=1337,
    users=(("root", 0, 0), ("systemd-resolve", 101, 102), ("envoy", 2001, 2002)),
    groups=(("root", 0), ("apps", 3000)),
    name_servers=(IPv4Address("127.0.0.53"),),
)
ROOT = model.Trust(is_root_only=True)
DETAIL = "/var/lib/istio/envoy belongs to istio-proxy (mode 0755)"
OTHER = model.Trust(is_root_only=False, detail=DETAIL)
PROXY = OTHER._replace(is_proxys=True)

# The shape that `istioctl x workload entry configure` writes.
ISTIOCTL = """\
CANONICAL_REVISION='latest'
CANONICAL_SERVICE='foo'
ISTIO_INBOUND_PORTS='*'
ISTIO_LOCAL_EXCLUDE_PORTS='22,15090,15021,15020'
ISTIO_METAJSON_LABELS='{"app":"foo","service.istio.io/canonical-name":"foo"}'
ISTIO_META_AUTO_REGISTER_GROUP='foo'
ISTIO_META_CLUSTER_ID='Kubernetes'
ISTIO_META_DNS_CAPTURE='true'
ISTIO_META_MESH_ID=''
ISTIO_META_NETWORK=''
ISTIO_META_POD_PORTS='[{"name":"http","containerPort":80,"protocol":""}]'
ISTIO_META_WORKLOAD_NAME='foo'
ISTIO_NAMESPACE='bar'
ISTIO_SERVICE='foo.bar'
ISTIO_SERVICE_CIDR='*'
POD_NAMESPACE='bar'
SERVICE_ACCOUNT='vm-sa'
TRUST_DOMAIN=''
"""


def build_config(
    sidecar: str | bytes | None = None,
    cluster: str | None = None,
    own: str | None = None,
    *,
    trust: model.Trust = OTHER,
    cluster_trust: model.Trust | None = None,
    facts: model.HostFacts = FACTS,
) -> build.Outcome:
    def encode(text: str | bytes | None) -> bytes | None:
        return text.encode() if isinstance(text, str) else text

    return build.build_config(
        [
            model.Layer(OWN, encode(own), ROOT),
            model.Layer(CLUSTER, encode(cluster), cluster_trust or trust),
            model.Layer(SIDECAR, encode(sidecar), trust),
        ],
        facts,
    )


def config_of(outcome: build.Outcome) -> model.Config:
    assert outcome.problems == ()
    assert outcome.config is not None
    return outcome.config


def value_of(outcome: build.Outcome, key: str) -> explain.Value:
    return next(value for value in outcome.values if value.key == key)


def test_no_file_gives_the_defaults_and_captures_nothing() -> None:
    outcome = build_config()
    config = config_of(outcome)
    assert config.redirection == model.Redirection()
    assert not config.redirection.inbound
    assert not config.redirection.outbound
    assert config.identity == model.IdentitySettings(
        ca_host="istiod.istio-system.svc",
        ca_port=15012,
        server_names=("istiod.istio-system.svc", "istiod.istio-system.svc"),
        trust_domain="cluster.local",
        namespace="default",
        service_account="default",
        cluster_id="",
        token_file="/var/run/secrets/tokens/istio-token",
        root_file="/etc/certs/root-cert.pem",
        output_dir="/etc/certs",
        ttl_s=86400,
    )
    assert config.proxy == model.ProxySettings()
    assert outcome.warnings == ()


def test_files_of_istioctl_are_taken_as_they_are() -> None:
    outcome = build_config(cluster=ISTIOCTL)
    config = config_of(outcome)
    assert config.redirection.inbound == model.PortSet(is_all=True)
    assert config.redirection.inbound_exclude.named == {22, 15020, 15021, 15090}
    assert config.redirection.outbound == model.CidrSet(is_all=True)
    assert config.identity.spiffe_id == "spiffe://cluster.local/ns/bar/sa/vm-sa"
    assert config.identity.cluster_id == "Kubernetes"
    assert config.proxy.service_cluster == "foo.bar"
    environment = dict(config.proxy.environment)
    assert environment["ISTIO_META_POD_PORTS"].startswith('[{"name":"http"')
    # What only the rules come from is nothing to a proxy.
    written = {line.partition("=")[0] for line in ISTIOCTL.splitlines()}
    assert written - environment.keys() == {
        "ISTIO_INBOUND_PORTS",
        "ISTIO_LOCAL_EXCLUDE_PORTS",
        "ISTIO_SERVICE_CIDR",
    }
    assert config.redirection.dns == model.Dns(True, resolver_uids=(101,))
    assert outcome.warnings == ()


def test_a_hundred_thousand_networks_are_taken_and_not_handed_on() -> None:
    networks = [f"10.{n >> 15}.{n >> 7 & 255}.{2 * (n & 127)}/32" for n in range(100_000)]
    text = f"ISTIO_SERVICE_CIDR={','.join(networks)}\n"
    assert len(text) > 1_500_000
    config = config_of(build_config(cluster=text))
    assert len(config.redirection.outbound.v4) == 100_000
    assert "ISTIO_SERVICE_CIDR" not in dict(config.proxy.environment)


def test_files_of_the_classic_guide_are_taken_as_they_are() -> None:
    outcome = build_config(
        cluster="ISTIO_CP_AUTH=MUTUAL_TLS\nISTIO_SERVICE_CIDR=10.55.240.0/20\nISTIO_SYSTEM_NAMESPACE=istio-system\n",
        sidecar="ISTIO_INBOUND_PORTS=27017,3306,8080\n",
    )
    config = config_of(outcome)
    assert config.redirection.inbound.named == {27017, 3306, 8080}
    assert config.redirection.outbound.networks == (ip_network("10.55.240.0/20"),)
    assert outcome.warnings == ()


def test_every_key_reaches_its_field() -> None:
    config = config_of(
        build_config(
            trust=ROOT,
            own="ISTIO_HOSTAGENT_PROXY=envoy\nISTIO_HOSTAGENT_ENVOY=/opt/envoy\nISTIO_HOSTAGENT_MTLS=strict\n"
            "ISTIO_HOSTAGENT_MESH_CIDR=10.1.0.0/16\nISTIO_HOSTAGENT_ACCESS_LOG=true\n"
            "ISTIO_HOSTAGENT_TOKEN_FILE=/t\nISTIO_HOSTAGENT_STATUS_PORT=2\n"
            "ISTIO_HOSTAGENT_CA_PROTOCOL=citadel\nCREDENTIAL_FETCHER_TYPE=GoogleComputeEngine\n"
            "ISTIO_HOSTAGENT_TOKEN_COMMAND=\"/usr/bin/vault read 'a b'\"\nGCE_METADATA_HOST=metadata:81\n"
            "WORKLOAD_RSA_KEY_SIZE=3072\nPKCS8_KEY=false\n"
            "ISTIO_HOSTAGENT_CONCURRENCY=4\nISTIO_HOSTAGENT_LOG_LEVEL=debug\n",
            cluster="ISTIO_SERVICE_CIDR=10.0.0.0/8\nISTIO_SERVICE_EXCLUDE_CIDR=10.2.0.0/16\nISTIO_OUTBOUND_PORTS=80\n"
            "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE=81\nISTIO_INBOUND_PORTS=82\nISTIO_LOCAL_EXCLUDE_PORTS=84,83\n"
            "ISTIO_INBOUND_EXCLUDE_PORTS=85,83\nENVOY_PORT=3\nINBOUND_CAPTURE_PORT=4\nINBOUND_TUNNEL_PORT=5\n"
            "CA_ADDR=[fd00::1]:6\nISTIO_SYSTEM_NAMESPACE=sys\nTRUST_DOMAIN=td\nISTIO_NAMESPACE=ns\n"
            "SERVICE_ACCOUNT=sa\nISTIO_META_CLUSTER_ID=c1\nPROV_CERT=./p\nOUTPUT_CERTS=./o\nSECRET_TTL=1h\n"
            "SECRET_GRACE_PERIOD_RATIO=0.2\nSECRET_GRACE_PERIOD_RATIO_JITTER=0.01\nCA_HEADER_B=2\nCA_HEADER_A=1\nCA_HEADER_C=\n",
            sidecar="ISTIO_BIN_BASE=/opt\nISTIO_AGENT_FLAGS='--a b'\nISTIO_SVC_IP=10.0.0.5\nPOD_NAME=vm1\n"
            "PILOT_ADDRESS=[fd00::2]:7\nISTIO_SERVICE=svc\nISTIO_INBOUND_INTERCEPTION_MODE=REDIRECT\n",
        )
    )
    assert config.redirection == model.Redirection(
        outbound=model.CidrSet.of([ip_network("10.0.0.0/8")]),
        outbound_exclude=model.CidrSet.of([ip_network("10.2.0.0/16")]),
        outbound_ports=model.PortSet(ranges=((80, 80),)),
        outbound_ports_exclude=model.PortSet(ranges=((81, 81),)),
        inbound=model.PortSet(ranges=((82, 82),)),
        inbound_exclude=model.PortSet(ranges=((83, 83), (84, 84), (85, 85))),
        outbound_capture_port=3,
        inbound_capture_port=4,
        tunnel_port=5,
        proxy_ports=(2, 15000, 15020, 15021, 15090),
        private_ports=(),
        keeps_closed=False,  # nobody gets in without a certificate
    )
    assert config.identity == model.IdentitySettings(
        ca_host="fd00::1",
        ca_port=6,
        server_names=("istio-citadel",),
        trust_domain="td",
        namespace="ns",
        service_account="sa",
        cluster_id="c1",
        token_file="/t",
        root_file="/p/root-cert.pem",
        output_dir="/o",
        ttl_s=3600,
        grace_ratio=0.2,
        grace_spread=0.01,
        headers=(("a", "1"), ("b", "2")),
        protocols=(model.CaProtocol.CITADEL,),
        named_parts=("trust_domain", "namespace", "service_account"),
        token_command=("/usr/bin/vault", "read", "a b"),
        metadata=model.Metadata.GOOGLE,
        metadata_host="metadata:81",
        provisioned_dir="/p",
        key_kind=model.KeyKind.RSA_3072,
        is_pkcs8=False,
    )
    assert config.proxy == model.ProxySettings(
        kind=model.ProxyKind.ENVOY,
        envoy="/opt/envoy",
        bin_base="/opt",
        mesh=model.CidrSet.of([ip_network("10.1.0.0/16")]),
        mtls=model.Mtls.STRICT,
        status_port=2,
        concurrency=4,
        log_level="debug",
        has_access_log=True,
        agent_flags=("--concurrency", "4", "--proxyLogLevel", "debug", "--a", "b"),
        instance_ip=IPv4Address("10.0.0.5"),
        workload_name="vm1",
        discovery_address="[fd00::2]:7",
        service_cluster="svc",
        environment=config.proxy.environment,
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CA_ADDR=istiod-rev.istio-system.svc:15012", "istiod-rev.istio-system.svc"),
        ("CA_ADDR=10.0.0.1:15012", "istiod.istio-system.svc"),
        ("CA_ADDR=[::1]:15012\nISTIO_SYSTEM_NAMESPACE=mesh", "istiod.mesh.svc"),
        ("CA_ADDR=localhost:15012", "istiod.istio-system.svc"),
        ("ISTIO_SYSTEM_NAMESPACE=mesh", "istiod.mesh.svc"),
        ("CA_ADDR=10.0.0.1:15012\nISTIOD_SAN=ca.example", "ca.example"),
        ("CA_ADDR=ca.example:15012\nISTIOD_SAN=other.example", "other.example"),
    ],
)
def test_name_that_the_ca_must_carry(text: str, name: str) -> None:
    outcome = build_config(text)
    assert config_of(outcome).identity.server_name == name
    assert value_of(outcome, "ISTIOD_SAN").text == name


ISTIOD, CITADEL = model.CaProtocol.ISTIOD, model.CaProtocol.CITADEL


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "CA_ADDR=10.0.0.1:31512",
            {ISTIOD: "istiod.istio-system.svc", CITADEL: "istio-citadel"},
        ),
        (
            "CA_ADDR=10.0.0.1:8060\nISTIO_SYSTEM_NAMESPACE=mesh",
            {CITADEL: "istio-citadel", ISTIOD: "istiod.mesh.svc"},
        ),
        ("CA_ADDR=istio-ca:8060", {CITADEL: "istio-ca", ISTIOD: "istio-ca"}),
        (
            "CA_ADDR=istio-ca.istio-system:15012",
            dict.fromkeys((CITADEL, ISTIOD), "istio-ca.istio-system"),
        ),
        (
            "CA_ADDR=10.0.0.1:8060\nISTIOD_SAN=ca.example",
            dict.fromkeys((CITADEL, ISTIOD), "ca.example"),
        ),
        ("CA_ADDR=[::1]:1\nISTIO_HOSTAGENT_CA_PROTOCOL=citadel", {CITADEL: "istio-citadel"}),
    ],
)
def test_each_protocol_has_a_name_that_the_ca_must_carry(
    text: str, names: dict[model.CaProtocol, str]
) -> None:
    outcome = build_config(text, own=text)
    identity = config_of(outcome).identity
    assert list(zip(identity.protocols, identity.server_names, strict=True)) == list(names.items())
    # Shown where the key is not set: the name that is tried first.
    assert value_of(outcome, "ISTIOD_SAN").text == identity.server_names[0]


def test_empty_value_is_the_default() -> None:
    text = "TRUST_DOMAIN=''\nOUTPUT_CERTS=\nCA_ADDR=\nSECRET_TTL=' '\nENVOY_PORT=\n"
    assert config_of(build_config(text)) == model.Config(
        model.Redirection(),
        config_of(build_config()).identity,
        model.ProxySettings(
            environment=(
                ("CA_ADDR", ""),
                ("ENVOY_PORT", ""),
                ("OUTPUT_CERTS", ""),
                ("SECRET_TTL", " "),
                ("TRUST_DOMAIN", ""),
            )
        ),
    )


def test_empty_value_in_the_later_file_takes_the_ports_away() -> None:
    outcome = build_config("ISTIO_INBOUND_PORTS=\n", "ISTIO_INBOUND_PORTS=80\n")
    assert not config_of(outcome).redirection.inbound
    value = value_of(outcome, "ISTIO_INBOUND_PORTS")
    assert (value.text, value.file, value.line) == ("", SIDECAR, 1)


def test_own_rules_switch_ours_off() -> None:
    config = config_of(build_config("ISTIO_CUSTOM_IP_TABLES=true\n"))
    assert not config.redirection.is_managed


def test_roots_of_the_operating_system() -> None:
    config = config_of(build_config("CA_ROOT_CA=SYSTEM\n"))
    assert config.identity.root_file == "/etc/ssl/certs/ca-certificates.crt"


@pytest.mark.parametrize(
    ("text", "namespace", "status"),
    [
        ("POD_NAMESPACE=pod", "pod", "in effect"),
        ("ISTIO_NAMESPACE=\nPOD_NAMESPACE=pod", "pod", "in effect"),
        ("ISTIO_NAMESPACE=mine\nPOD_NAMESPACE=pod", "mine", "not used: ISTIO_NAMESPACE is set"),
        ("ISTIO_NAMESPACE=mine\nPOD_NAMESPACE=NOT!", "mine", "not used: ISTIO_NAMESPACE is set"),
    ],
)
def test_key_that_stands_in_for_another(text: str, namespace: str, status: str) -> None:
    outcome = build_config(text)
    assert config_of(outcome).identity.namespace == namespace
    assert value_of(outcome, "POD_NAMESPACE").status == status


def test_environment_holds_every_key_but_the_agents_own_and_the_later_file_wins() -> None:
    outcome = build_config(
        sidecar="ISTIO_META_X=2\nFREE=a\\ b\nISTIO_HOSTAGENT_CONCURRENCY=1\n",
        cluster="ISTIO_META_X=1\nISTIO_META_Y=$ISTIO_META_X\n",
        own="CLOUD_PLATFORM=none\nISTIO_HOSTAGENT_MTLS=strict\n",
    )
    assert config_of(outcome).proxy.environment == (
        ("CLOUD_PLATFORM", "none"),
        ("FREE", "a b"),
        ("ISTIO_META_X", "2"),
        ("ISTIO_META_Y", "1"),
    )


def test_a_changed_inbound_port_changes_nothing_for_the_proxy() -> None:
    one, two = (
        config_of(build_config(f"ISTIO_INBOUND_PORTS={ports}\nISTIO_META_X=1\n"))
        for ports in ("8080", "8080,9090")
    )
    assert one.redirection != two.redirection
    assert one.proxy == two.proxy


def test_concurrency_and_log_level_reach_pilot_agent_if_they_are_set() -> None:
    own = "ISTIO_HOSTAGENT_CONCURRENCY=1\nISTIO_HOSTAGENT_LOG_LEVEL=debug\n"
    flags = "ISTIO_AGENT_FLAGS=--proxyLogLevel=info\n"
    assert config_of(build_config()).proxy.agent_flags == ()
    assert config_of(build_config(own=own + flags)).proxy.agent_flags == (
        *("--concurrency", "1", "--proxyLogLevel", "debug"),
        "--proxyLogLevel=info",
    )


def test_value_too_long_for_a_process_is_not_handed_on() -> None:
    cidrs = ",".join(f"10.{n >> 8}.{n & 255}.0/24" for n in range(10_000))
    outcome = build_config(f"ISTIO_SERVICE_CIDR={cidrs}\nISTIO_META_LONG={'x' * 131072}\nA=1\n")
    config = config_of(outcome)
    assert dict(config.proxy.environment) == {"A": "1"}
    assert len(config.redirection.outbound.networks) == 10_000
    assert Problem(SIDECAR, 2, "ISTIO_META_LONG is too long to be handed on to pilot-agent") in (
        outcome.warnings
    )


# Problems


def test_all_problems_of_all_files_come_at_once_and_sorted() -> None:
    outcome = build_config(
        sidecar="SECRET_TTL=91h\nSECRET_TTL=1d\nISTIO_INBOUND_PORTS=80,70000\nA=$(x)\n",
        cluster="ISTIO_SERVICE_CIDR=10.0.0.0/40\nB='\n",
        own=b"\0".decode(),
    )
    assert outcome.config is None
    assert [str(problem) for problem in outcome.problems] == [
        f"{OWN}: the file holds nothing but NUL bytes, as after a power loss: write it anew",
        f"{CLUSTER}:1: ISTIO_SERVICE_CIDR: the prefix length of '10.0.0.0/40' is not a number up to 32",
        f"{CLUSTER}:2: the single quote is never closed",
        f"{SIDECAR}:2: SECRET_TTL: '1d' is not a duration such as 24h or 1h30m",
        f"{SIDECAR}:3: ISTIO_INBOUND_PORTS: '70000' is not a port between 1 and 65535",
        f"{SIDECAR}:4: command substitution and arithmetic are not supported:"
        " nothing in this file is run",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ISTIO_META_INTERCEPTION_MODE=TPROXY",
            "ISTIO_INBOUND_INTERCEPTION_MODE is REDIRECT by default: both must be the same",
        ),
        ("ISTIO_SERVICE_EXCLUDE_CIDR=*", "`*` is not possible here"),
        ("ISTIO_LOCAL_EXCLUDE_PORTS=*", "`*` is not possible here"),
        ("ISTIO_INBOUND_EXCLUDE_PORTS=x", "'x' is not a port"),
        ("ISTIO_CUSTOM_IP_TABLES=maybe", "'maybe' is neither true nor false"),
        ("SECRET_TTL=2161h", "is not between 1s and 2160h"),
        ("CA_HEADER_X=$'a\\tb'", "a header value must be printable ASCII"),
        ("ISTIO_HOSTAGENT_PROXY=nginx", "'nginx' is not one of auto, pilot-agent, envoy"),
        ("ISTIO_HOSTAGENT_MTLS=on", "'on' is not one of permissive, strict"),
        ("PROV_CERT=../x", "is not a path without `..`"),
        (
            "ISTIO_HOSTAGENT_OUTPUTS=/etc/x.pem",
            "does not begin with one of files, pem, pkcs12:/PATH",
        ),
        (
            "ISTIO_HOSTAGENT_OUTPUTS=jks:/etc/x",
            "does not begin with one of files, pem, pkcs12:/PATH",
        ),
        ("ISTIO_HOSTAGENT_OUTPUTS=pem:etc/x", "the path is not absolute"),
        (
            "ISTIO_HOSTAGENT_OUTPUTS=pem:/x,mode=0644",
            "would show the key to every user of this host",
        ),
        ("ISTIO_HOSTAGENT_OUTPUTS=pem:/x,mode=0750", "is not one of a file, as in 0640"),
        ("ISTIO_HOSTAGENT_OUTPUTS=pem:/x,mode=9", "is not one of a file, as in 0640"),
        (
            "ISTIO_HOSTAGENT_OUTPUTS=pem:/x,user=app",
            "is not one of owner=, group=, mode=, password-file=",
        ),
        ("ISTIO_HOSTAGENT_OUTPUTS=pem:/x,password-file=/y", "password-file is for pkcs12 alone"),
        ("ISTIO_HOSTAGENT_OUTPUTS='pem:/x pem:/x/'", "one path is there twice"),
        ("ISTIO_HOSTAGENT_OUTPUTS='pem:\"/x'", "it has no closing quotation"),
        (
            "ISTIO_HOSTAGENT_RENEW_HOOK=reload",
            "is neither an absolute path to a program nor unit:NAME",
        ),
        (
            "ISTIO_HOSTAGENT_RENEW_HOOK='unit:a.service /bin/x'",
            "is not unit:NAME, as in unit:nginx.service",
        ),
        ("ISTIO_HOSTAGENT_RENEW_HOOK=unit:--all", "is not unit:NAME, as in unit:nginx.service"),
        ("ISTIO_SYSTEM_NAMESPACE='a b'", "is not a name of"),
    ],
)
def test_value_with_a_problem_is_named_with_key_file_and_line(text: str, expected: str) -> None:
    outcome = build_config(f"\n{text}\n")
    [problem] = outcome.problems
    assert (problem.file, problem.line) == (SIDECAR, 2)
    key = text.partition("=")[0]
    assert problem.message.startswith(f"{key}: ")
    assert expected in problem.message
    assert outcome.config is None


def test_overridden_value_is_not_validated() -> None:
    config = config_of(build_config("ENVOY_PORT=1\n", "ENVOY_PORT=none\n"))
    assert config.redirection.outbound_capture_port == 1


LISTED = "ISTIO_INBOUND_PORTS: {}, on which the proxy itself listens: take it out of the list"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("ENVOY_PORT=15006", 1, "ENVOY_PORT: 15006 is the port of INBOUND_CAPTURE_PORT already"),
        ("\nINBOUND_CAPTURE_PORT=15001", 2, "INBOUND_CAPTURE_PORT: 15001 is the port of ENVOY_PORT already"),
        ("ENVOY_PORT=15000", 1, "ENVOY_PORT: 15000 is the port of the admin interface below pilot-agent already"),
        ("ISTIO_HOSTAGENT_STATUS_PORT=15008", 1, "ISTIO_HOSTAGENT_STATUS_PORT: 15008 is the port of INBOUND_TUNNEL_PORT already"),
        (
            "ENVOY_PORT=5\nENVOY_STATUS_PORT=5",
            2,
            f"ENVOY_STATUS_PORT: 5 is the port of ENVOY_PORT ({SIDECAR}:1) already",
        ),
        ("ENVOY_PORT=22", 1, "ENVOY_PORT: 22 is the port on which sshd listens"),
        # pilot-agent's own, and those of the Envoy below it
        ("ENVOY_PORT=15020", 1, "ENVOY_PORT: 15020 is the port of pilot-agent's status already"),
        (
            "PROXY_CONFIG='statusPort: 15120'\nENVOY_PORT=15120",
            2,
            "ENVOY_PORT: 15120 is the port of pilot-agent's status already",
        ),
        ("ENVOY_PROMETHEUS_PORT=15021", 1, "ENVOY_PROMETHEUS_PORT: 15021 is the port of ENVOY_STATUS_PORT already"),
        ("INBOUND_TUNNEL_PORT=15090", 1, "INBOUND_TUNNEL_PORT: 15090 is the port of ENVOY_PROMETHEUS_PORT already"),
        (
            "ENVOY_SECURE_METRICS_PORT=9\nENVOY_SECURE_MERGED_METRICS_PORT=9",
            2,
            f"ENVOY_SECURE_MERGED_METRICS_PORT: 9 is the port of ENVOY_SECURE_METRICS_PORT ({SIDECAR}:1) already",
        ),
        # Captured into itself
        ("ISTIO_INBOUND_PORTS=8080,15001", 1, LISTED.format("15001 is the port of ENVOY_PORT")),
        ("ISTIO_INBOUND_PORTS=15006", 1, LISTED.format("15006 is the port of INBOUND_CAPTURE_PORT")),
        ("ISTIO_INBOUND_PORTS=15008", 1, LISTED.format("15008 is the port of INBOUND_TUNNEL_PORT")),
        ("ISTIO_INBOUND_PORTS=15000", 1, LISTED.format("15000 is the port of the admin interface below pilot-agent")),
        ("ISTIO_INBOUND_PORTS=15021", 1, LISTED.format("15021 is the port of ENVOY_STATUS_PORT")),
        ("ISTIO_INBOUND_PORTS=15020", 1, LISTED.format("15020 is the port of pilot-agent's status")),
        ("ISTIO_INBOUND_PORTS=15090", 1, LISTED.format("15090 is the port of ENVOY_PROMETHEUS_PORT")),
        (
            "ENVOY_PORT=8080\nISTIO_INBOUND_PORTS=8080,9090",
            2,
            LISTED.format(f"8080 is the port of ENVOY_PORT ({SIDECAR}:1)"),
        ),
    ],
)  # fmt: skip
def test_listeners_must_not_meet(text: str, line: int, message: str) -> None:
    assert build_config(text).problems == (Problem(SIDECAR, line, message),)


@pytest.mark.parametrize(
    "text",
    [
        "ISTIO_INBOUND_PORTS=*", "ISTIO_INBOUND_PORTS=15000:15100", "ENVOY_SECURE_METRICS_PORT=0",
        "ISTIO_HOSTAGENT_PROXY=envoy\nISTIO_INBOUND_PORTS=15020,15090",
        "ISTIO_HOSTAGENT_PROXY=envoy\nENVOY_PORT=15020",
        "PROXY_CONFIG='statusPort: 15120'\nENVOY_PORT=15020",
        'PROXY_CONFIG=\'{"proxyAdminPort":15100}\'\nISTIO_INBOUND_PORTS=15000',
    ],
)  # fmt: skip
def test_port_of_nobody_else_is_no_problem(text: str) -> None:
    assert build_config(text).problems == ()


def test_what_has_become_an_error_since_it_was_accepted_takes_nothing_away() -> None:
    texts = [model.Layer(OWN, None, ROOT), model.Layer(CLUSTER, None, ROOT)]
    text = b"ISTIO_INBOUND_PORTS=15006,,8080\nPILOT_ADDRESS=p:15010\nENVOY_PORT=15020\n"
    texts.append(model.Layer(SIDECAR, text, ROOT))
    assert len(build.build_config(texts, FACTS).problems) == 4
    outcome = build.build_config(texts, FACTS, is_accepted=True)
    config = config_of(outcome)
    assert config.redirection.outbound_capture_port == 15020
    assert config.redirection.inbound.named == {15006, 8080}
    assert config.proxy.discovery_address == "p:15010"
    assert (config.identity.ca_host, config.identity.ca_port) == ("istiod.istio-system.svc", 15012)
    assert [warning.line for warning in outcome.warnings] == [1, 1, 2, 3]


def test_named_port_of_sshd_or_of_the_session_is_a_warning() -> None:
    facts = FACTS._replace(ssh_ports=(22, 2222), session_ports=(8022,))
    outcome = build_config("\nISTIO_INBOUND_PORTS=22,8022,8080,2222\n", facts=facts)
    assert config_of(outcome).redirection.inbound.named == {22, 8022, 8080, 2222}
    said = (
        "naming captures it, so the proxy answers there, and in strict mode lets in the mesh alone"
    )
    assert outcome.warnings == tuple(
        Problem(SIDECAR, 2, f"ISTIO_INBOUND_PORTS: on {port} {who}: {said}")
        for port, who in (
            (22, "sshd listens"), (2222, "sshd listens"), (8022, "this session comes in"),
        )
    )  # fmt: skip


@pytest.mark.parametrize("ports", ["*", "1:65535", "8080", ""])
def test_port_of_sshd_that_is_not_named_is_no_warning(ports: str) -> None:
    assert build_config(f"ISTIO_INBOUND_PORTS={ports}\n").warnings == ()


def test_port_of_sshd_that_is_excluded_as_well_is_not_captured() -> None:
    text = "ISTIO_INBOUND_PORTS=22\nISTIO_LOCAL_EXCLUDE_PORTS=22\n"
    [warning] = build_config(text).warnings
    assert "is not captured" in warning.message


def test_port_that_is_listed_and_excluded_is_named() -> None:
    outcome = build_config(
        "ISTIO_INBOUND_PORTS=22,8080,9090\n",
        "ISTIO_LOCAL_EXCLUDE_PORTS=22,15090,8080\nISTIO_INBOUND_EXCLUDE_PORTS=9090\n",
    )
    assert outcome.problems == ()
    assert [warning.message for warning in outcome.warnings if warning.file == SIDECAR] == [
        f"ISTIO_INBOUND_PORTS: 22, 8080 is not captured, because ISTIO_LOCAL_EXCLUDE_PORTS"
        f" ({CLUSTER}:1) has it",
        f"ISTIO_INBOUND_PORTS: 9090 is not captured, because ISTIO_INBOUND_EXCLUDE_PORTS"
        f" ({CLUSTER}:2) has it",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('ISTIO_METAJSON_LABELS={"app":"x"}', """write ISTIO_METAJSON_LABELS='{"app":"x"}'"""),
        (
            'ISTIO_METAJSON_LABELS={"app":"x","service.istio.io/canonical-name":"a:b"}',
            """write ISTIO_METAJSON_LABELS='{"app":"x","service.istio.io/canonical-name":"a:b"}'""",
        ),
        ('ISTIO_METAJSON_X="{"a":1}"', """write ISTIO_METAJSON_X='{"a":"1"}'"""),
        ("""ISTIO_METAJSON_LABELS="{'app':'x'}\"""", "put the value in single quotes"),
        ("""ISTIO_METAJSON_LABELS='{"app":"x",}'""", "put the value in single quotes"),
        ("ISTIO_METAJSON_LABELS=app", "put the value in single quotes"),
        ('ISTIO_META_POD_PORTS=[{"name":"http"}]', "put the value in single quotes"),
        (
            'PROXY_CONFIG={"discoveryAddress":"istiod.x.svc:1"}',
            """write PROXY_CONFIG='{"discoveryAddress":"istiod.x.svc:1"}'""",
        ),
        (
            'PROXY_CONFIG={"concurrency":2,"proxyMetadata":{"A":"b"}}',
            "put the value in single quotes",
        ),
        (
            r"""ISTIO_META_POD_PORTS='"[{\"name\":\"mysql\",\"containerPort\":3306}]"'""",
            """write ISTIO_META_POD_PORTS='[{"name":"mysql","containerPort":3306}]'""",
        ),
        (r"""ISTIO_META_POD_PORTS='"a \"b\""'""", "put the value in single quotes"),
        ('ISTIO_PROMETHEUS_ANNOTATIONS={"scrape":"true"}', "write ISTIO_PROMETHEUS_ANNOTATIONS="),
    ],
)
def test_json_that_has_lost_its_quotes_is_a_warning_with_the_right_spelling(
    text: str, hint: str
) -> None:
    outcome = build_config(f"\n{text}\n")
    [warning] = outcome.warnings
    assert warning.line == 2
    is_fatal = text.startswith("ISTIO_META_POD_PORTS")
    effect = (
        "which keeps pilot-agent from starting" if is_fatal else "so pilot-agent leaves it out"
    )
    assert f"is no JSON, {effect}: " in warning.message
    assert hint in warning.message


@pytest.mark.parametrize(
    "value",
    [
        "discoveryAddress: istiod-canary.x.svc:15012",
        '{"discoveryAddress":"istiod-canary.x.svc:15012"}',
    ],
)
def test_a_control_plane_that_proxy_config_alone_names_is_not_the_ca(value: str) -> None:
    text = f"PROXY_CONFIG='{value}'\n"
    [warning] = build_config(text).warnings
    assert warning.line == 1
    assert warning.message.endswith("write CA_ADDR=istiod-canary.x.svc:15012")
    for key in ("CA_ADDR=a.svc:15012", "PILOT_ADDRESS=a.svc:15012", "ISTIO_PILOT_PORT=31012"):
        assert build_config(f"{text}{key}\n").warnings == ()


@pytest.mark.parametrize("value", ["", "# discoveryAddress: a.svc:15012\nconcurrency: 2\n"])
def test_the_default_control_plane_in_proxy_config_is_no_warning(value: str) -> None:
    text = f"PROXY_CONFIG='{value}discoveryAddress: istiod.istio-system.svc:15012'\n"
    assert build_config(text).warnings == ()


@pytest.mark.parametrize(
    "value",
    ["{}", '{"a": {"b": [1, -2.5e3, true, null]}}', "", '[{"name":"http","containerPort":80}]',
     '{"a":"b\\"c, }"}', ' {"a" : "ü"} '],
)  # fmt: skip
def test_json_is_no_warning(value: str) -> None:
    assert build_config(f"ISTIO_METAJSON_X='{value}'\n").warnings == ()


@pytest.mark.parametrize(
    "value",
    [
        "concurrency: 2",
        "{concurrency: 2, }",
        '{"concurrency":2}',
        "{}",
        " concurrency: 2",
        "a: {b:c}",
    ],
)
def test_proxy_config_in_yaml_is_no_warning(value: str) -> None:
    assert build_config(f"PROXY_CONFIG='{value}'\n").warnings == ()


def test_port_with_a_problem_does_not_meet_another() -> None:
    outcome = build_config("ENVOY_PORT=none\nINBOUND_CAPTURE_PORT=15001\n")
    assert [problem.line for problem in outcome.problems] == [1]


# Who may say what


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("", (15000, 15004, 15020)),
        ("ISTIO_HOSTAGENT_LOCAL_PORTS=15020", (15000, 15004)),
        ("ISTIO_HOSTAGENT_LOCAL_PORTS=15000-15010,15020", ()),
        ("PROXY_CONFIG='{\"statusPort\": 15120, \"proxyAdminPort\":\"15100\"}'",
         (15000, 15004, 15020, 15100, 15120)),
        ("PROXY_CONFIG='proxyAdminPort: 15100 # moved'\nISTIO_HOSTAGENT_LOCAL_PORTS=15000:15100", ()),
        ("PROXY_CONFIG='concurrency: 15100'", (15000, 15004, 15020)),
        ("PROXY_CONFIG='statusPort: 99999'", (15000, 15004, 15020)),
        ("ISTIO_HOSTAGENT_PROXY=pilot-agent", (15000, 15004, 15020)),
        ("ISTIO_HOSTAGENT_PROXY=envoy", ()),
    ],
)  # fmt: skip
def test_private_ports_are_those_of_pilot_agent_that_are_not_opened(
    text: str, ports: tuple[int, ...]
) -> None:
    assert config_of(build_config(text)).redirection.private_ports == ports


def test_a_port_of_the_admin_interface_is_without_effect_and_says_so() -> None:
    outcome = build_config(own="ISTIO_HOSTAGENT_ADMIN_PORT=15000\n")
    assert outcome.problems == ()
    (warning,) = outcome.warnings
    assert "admin interface is a unix socket" in warning.message


# What only istio-proxy acts on may stand in its own files.
OF_PROXY = [
    "OUTPUT_CERTS=/srv/x",
    "OUTPUT_CERTS=/var/run/secrets/istio",
    "CERTS_DIR=/srv/x",
    "GRPC_XDS_BOOTSTRAP=/srv/x",
    "XDS_SAVE=/srv/x",
    "LOCAL_XDS_GENERATOR_CONFIG_SAVE_PATH=/srv/x",
]
GUARDED = [
    *OF_PROXY,
    "ISTIO_BIN_BASE=/srv/x", "ISTIO_HOSTAGENT_ENVOY=/srv/x", "ISTIO_AGENT_FLAGS=--x", "ENVOY_USER=root",
    "ISTIO_HOSTAGENT_SECRET_SOCKET=/srv/x",
    "EXEC_USER=root", "ISTIO_BOOTSTRAP=/srv/x", "ISTIO_BOOTSTRAP_OVERRIDE=/srv/x", "PROXY_UID=0", "PROXY_GID=0",
    "ENVOY_UID=0", "LD_PRELOAD=/srv/x.so",
    "ISTIO_HOSTAGENT_CLOSED_PORTS=capture", "LD_LIBRARY_PATH=", "PATH=/srv", "BASH_ENV=/srv/x", "PYTHONPATH=/srv", "GLIBC_TUNABLES=x",
]  # fmt: skip


@pytest.mark.parametrize("text", GUARDED)
def test_guarded_key_counts_only_from_a_root_only_file(text: str) -> None:
    key = text.partition("=")[0]
    message = f"{key}: counts only from a file that only root can write; {DETAIL}: move the line to {OWN}"
    outcome = build_config(text)
    assert outcome.problems == (Problem(SIDECAR, 1, message),)
    assert value_of(outcome, key).status == "refused"
    if text not in OF_PROXY:
        assert build_config(text, trust=PROXY).problems == outcome.problems
    assert build_config(text, trust=ROOT).problems == ()
    assert build_config(own=text).problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "OUTPUT_CERTS=./etc/certs", "CERTS_DIR=/etc/certs/", "ISTIO_BIN_BASE=/usr/local/bin", "ISTIO_HOSTAGENT_ENVOY=",
        "ISTIO_HOSTAGENT_SECRET_SOCKET=", "ISTIO_AGENT_FLAGS=' '", "ENVOY_USER=istio-proxy", "EXEC_USER=istio-proxy", "ISTIO_LOG_DIR=/var/log/istio",
        "ISTIO_CFG=/var/lib/istio", "ISTIO_BOOTSTRAP=", "ENVOY_CFG=/var/lib/istio/envoy/envoy.json",
    ],
)  # fmt: skip
def test_guarded_key_with_its_default_may_stand_anywhere(text: str) -> None:
    assert build_config(text).problems == ()


def test_later_root_only_file_overrules_what_another_may_not_say() -> None:
    outcome = build_config(
        "OUTPUT_CERTS=/a\n", "OUTPUT_CERTS=/b\n", trust=ROOT, cluster_trust=OTHER
    )
    assert config_of(outcome).identity.output_dir == "/a"


def test_root_only_file_lends_no_trust_to_a_value_made_from_another_file() -> None:
    outcome = build_config(
        "B=$A/c\nOUTPUT_CERTS=$B\nC=/fine\nISTIO_BIN_BASE=$C\n",
        "A=/srv\n",
        trust=ROOT,
        cluster_trust=OTHER,
    )
    message = (
        "OUTPUT_CERTS: counts only from a file that only root can write;"
        f" it is made from B of {SIDECAR}:1: it is made from A of {CLUSTER}:1: {DETAIL}:"
        f" write the value itself into {OWN}"
    )
    assert outcome.problems == (Problem(SIDECAR, 2, message),)


@pytest.mark.parametrize("text", OF_PROXY)
def test_place_to_which_istio_proxy_writes_may_come_from_its_own_file(text: str) -> None:
    outcome = build_config(text, trust=PROXY)
    assert outcome.problems == ()
    assert value_of(outcome, text.partition("=")[0]).status != "refused"


def test_file_of_istio_proxy_lends_no_trust_to_a_value_made_from_a_file_of_others() -> None:
    outcome = build_config("OUTPUT_CERTS=$A\n", "A=/srv\n", trust=PROXY, cluster_trust=OTHER)
    assert [problem.line for problem in outcome.problems] == [1]
    outcome = build_config("OUTPUT_CERTS=$A\n", "A=/srv\n", trust=ROOT, cluster_trust=PROXY)
    assert config_of(outcome).identity.output_dir == "/srv"


# Istio's page on debugging, its documented sidecar.env, and what people add to it.
LOGGING = [
    "--log_output_level=default:debug", "--log_output_level default:debug", "--log_as_json",
    "--log_as_json=true --log_caller=ads", "--proxyLogLevel debug", "--proxyLogLevel=info,misc:error",
    "--proxyComponentLogLevel=filter:trace --vklog=9", "--log_stacktrace_level all:error --log_as_json",
]  # fmt: skip
NOT_ONLY_LOGGING = [
    "--log_target=/srv/x", "--log_rotate /srv/x", "--log_output_level", "--log_output_level --templateFile",
    "--proxyLogLevel=debug --templateFile=/srv/x", "router", "--log_as_json router", "--concurrency=8",
    "--outlierLogPath=/srv/x", "--meshConfig=/srv/x", "-p", "--", "--log_output_levels=x",
]  # fmt: skip


@pytest.mark.parametrize("flags", LOGGING)
def test_flags_about_logging_count_from_any_file(flags: str) -> None:
    outcome = build_config(f"ISTIO_AGENT_FLAGS='{flags}'")
    assert config_of(outcome).proxy.agent_flags == tuple(flags.split())


@pytest.mark.parametrize("flags", NOT_ONLY_LOGGING)
def test_other_flags_count_only_from_a_root_only_file(flags: str) -> None:
    text = f"ISTIO_AGENT_FLAGS='{flags}'"
    assert "only root can write" in build_config(text, trust=PROXY).problems[0].message
    assert config_of(build_config(text, trust=ROOT)).proxy.agent_flags == tuple(flags.split())


@pytest.mark.parametrize(
    "text",
    [
        "ISTIO_LOG_DIR=/srv/x", "ISTIO_CFG=/srv/x", "ISTIO_CERT_DIR=/srv/x", "ENVOY_CFG=/srv/x",
        "DRY_RUN_FILE_PATH=/srv/x",
    ],
)  # fmt: skip
def test_path_that_nobody_uses_is_no_danger(text: str) -> None:
    outcome = build_config(text)
    assert outcome.problems == ()
    assert "has no effect here" in outcome.warnings[0].message


def test_inputs_that_the_proxy_may_read_anyway_may_be_named_anywhere() -> None:
    text = "CA_ROOT_CA=/a\nPROV_CERT=/b\nISTIO_HOSTAGENT_TOKEN_FILE=/c\n"
    assert build_config(text).problems == ()


# Warnings


def test_key_set_twice_names_both_lines_and_the_later_counts() -> None:
    outcome = build_config("ENVOY_PORT=1\n\nENVOY_PORT=2\n")
    assert config_of(outcome).redirection.outbound_capture_port == 2
    assert outcome.warnings == (
        Problem(SIDECAR, 3, "ENVOY_PORT is set on line 1 already; this line counts"),
    )


def test_key_set_differently_in_both_files_names_both_lines_and_sidecar_wins() -> None:
    outcome = build_config("\nENVOY_PORT=2\n", "ENVOY_PORT=1\n", "ENVOY_PORT=3\n")
    assert config_of(outcome).redirection.outbound_capture_port == 2
    assert outcome.warnings == (
        Problem(SIDECAR, 2, f"ENVOY_PORT differs from {CLUSTER}:1; this file wins"),
    )
    value = value_of(outcome, "ENVOY_PORT")
    assert value == explain.Value(
        "ENVOY_PORT", "2", SIDECAR, 2, ((OWN, 1, "3"), (CLUSTER, 1, "1")), "in effect"
    )


@pytest.mark.parametrize(
    ("sidecar", "cluster", "own"),
    [
        ("ENVOY_PORT=2\n", None, "ENVOY_PORT=1\n"),
        ("ENVOY_PORT=2\n", "ENVOY_PORT='2'\n", None),
        ("ISTIO_INBOUND_PORTS=$ISTIO_INBOUND_PORTS,81\n", "ISTIO_INBOUND_PORTS=80\n", None),
        ("ISTIO_INBOUND_PORTS=80\nISTIO_INBOUND_PORTS=$ISTIO_INBOUND_PORTS,81\n", None, None),
        (None, "ENVOY_PORT=2\n", "ENVOY_PORT=1\n"),
    ],
)
def test_what_is_no_contradiction_is_no_warning(
    sidecar: str | None, cluster: str | None, own: str | None
) -> None:
    assert build_config(sidecar, cluster, own).warnings == ()


def test_unknown_key_is_a_warning_with_the_key_that_was_meant() -> None:
    outcome = build_config("ISTIO_INBOUND_PORT=80\nNOTHING_LIKE_IT=1\n")
    assert outcome.warnings == (
        Problem(
            SIDECAR,
            1,
            "ISTIO_INBOUND_PORT is not a known key; did you mean ISTIO_INBOUND_PORTS?",
        ),
        Problem(SIDECAR, 2, "NOTHING_LIKE_IT is not a known key"),
    )
    assert not config_of(outcome).redirection.inbound
    assert value_of(outcome, "NOTHING_LIKE_IT").status == "unknown"


def test_known_key_without_effect_is_a_warning_with_the_reason() -> None:
    outcome = build_config("\nDNS_AGENT=true\n")
    reason = "ISTIO_META_DNS_CAPTURE has queries for names answered by pilot-agent"
    assert outcome.warnings == (
        Problem(
            SIDECAR,
            2,
            f"DNS_AGENT is known, has no effect here, because {reason}",
        ),
    )
    status = value_of(outcome, "DNS_AGENT").status
    assert status == f"no effect: {reason}"


def test_key_without_effect_that_asks_for_nothing_else_is_no_warning() -> None:
    text = "DNS_CAPTURE=false\nDNS_AGENT=\n"
    assert build_config(text).warnings == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ISTIO_CP_AUTH=NONE", 1),
        ("ISTIO_CP_AUTH=\nCONTROL_PLANE_AUTH_POLICY=NONE", 2),
        ("ISTIO_CP_AUTH=MUTUAL_TLS\nCONTROL_PLANE_AUTH_POLICY=NONE", 0),
        ("ISTIO_CP_AUTH=NONE\nPILOT_ADDRESS=p:1", 0),
        ("ISTIO_CP_AUTH=NONE\nPROXY_CONFIG=concurrency:", 0),
    ],
)
def test_plain_text_to_the_control_plane_is_a_warning_where_pilot_agent_is_told_of_it(
    text: str, line: int
) -> None:
    outcome = build_config(text)
    said = [each for each in outcome.warnings if "plain text to the control plane" in each.message]
    assert [each.line for each in said] == ([line] if line else [])
    assert not any("has no effect here" in each.message for each in outcome.warnings)
    key = text.partition("=")[0]
    assert value_of(outcome, key).status == "handed on to pilot-agent"


def test_families_are_known() -> None:
    text = "ISTIO_META_ANY=1\nISTIO_METAJSON_ANY='{}'\nCA_HEADER_ANY=1\nXDS_HEADER_ANY=1\n"
    outcome = build_config(text)
    assert outcome.warnings == ()
    assert value_of(outcome, "ISTIO_META_ANY").status == "handed on to pilot-agent"
    assert value_of(outcome, "CA_HEADER_ANY").status == "in effect"


def test_family_without_a_name_is_unknown() -> None:
    outcome = build_config("CA_HEADER_=1\n")
    assert outcome.warnings == (Problem(SIDECAR, 1, "CA_HEADER_ is not a known key"),)
    assert config_of(outcome).identity.headers == ()


def test_warnings_are_bounded() -> None:
    outcome = build_config("".join(f"UNKNOWN_{n}_KEY=\n" for n in range(1000)))
    assert len(outcome.warnings) == layers.MAX_WARNINGS + 1
    assert "there are more warnings, which are not shown" in {w.message for w in outcome.warnings}


# Values


def test_explanation_has_every_key_with_its_default() -> None:
    values = {value.key: value for value in build_config("PROV_CERT=/p\n").values}
    assert values["CA_ROOT_CA"] == explain.Value(
        "CA_ROOT_CA", "/p/root-cert.pem", "", 0, (), "in effect"
    )
    assert values["PROV_CERT"] == explain.Value("PROV_CERT", "/p", SIDECAR, 1, (), "in effect")
    assert values["ISTIO_HOSTAGENT_CONCURRENCY"].text == "2"


def test_secrets_are_in_no_value_and_no_message() -> None:
    secret = "s3cr3t"
    outcome = build_config(
        f"CA_HEADER_X={secret}é\nXDS_HEADER_X={secret}\nCA_HEADER_Y={secret}\n",
        f"XDS_HEADER_X={secret}1\n",
    )
    assert outcome.problems
    shown = repr(outcome.values) + repr(outcome.problems) + repr(outcome.warnings)
    assert secret not in shown
    assert value_of(outcome, "XDS_HEADER_X").text == "(hidden)"


def test_ten_thousand_networks_take_no_noticeable_time() -> None:
    cidrs = ",".join(f"10.{n >> 8}.{n & 255}.0/24" for n in range(10_000))
    started = time.process_time()
    outcome = build_config(f"ISTIO_SERVICE_CIDR={cidrs}\n")
    assert time.process_time() - started < 5.0  # 30 ms measured
    assert len(config_of(outcome).redirection.outbound.networks) == 10_000


@pytest.mark.parametrize(
    ("own", "keeps_closed"),
    [
        ("", True),
        ("ISTIO_HOSTAGENT_CLOSED_PORTS=leave\n", True),
        ("ISTIO_HOSTAGENT_CLOSED_PORTS=capture\n", False),
        # Only one that is certain to let in nobody without a certificate may open a port.
        ("ISTIO_HOSTAGENT_MTLS=strict\n", True),
        ("ISTIO_HOSTAGENT_PROXY=pilot-agent\nISTIO_HOSTAGENT_MTLS=strict\n", True),
        ("ISTIO_HOSTAGENT_PROXY=envoy\nISTIO_HOSTAGENT_MTLS=strict\n", False),
        ("ISTIO_HOSTAGENT_PROXY=envoy\n", True),
    ],
)
def test_what_the_firewall_closes_is_kept_closed_unless_it_is_safe_or_said(
    own: str, keeps_closed: bool
) -> None:
    assert config_of(build_config(own=own)).redirection.keeps_closed is keeps_closed
