"""Defaults and fallbacks of every key, as Istio's start script and agent have them.

The rows follow the tables of Istio's `tools/packaging/common/{istio-start.sh,sidecar.env}` and of
pilot-agent's options, releases 1.24 to 1.31; what is different here on purpose says why.
"""

from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from istio_hostagent.config import build, model
from istio_hostagent.errors import Problem
from istio_hostagent.supervise import pilot

FILE = "/var/lib/istio/envoy/cluster.env"
FACTS = model.HostFacts(
    proxy_uid=1337, proxy_gid=1337, hostname="vm-1", addresses=(IPv4Address("10.0.0.5"),)
)


def build_config(text: str) -> build.Outcome:
    nobody = model.Trust(is_root_only=True)
    layers = [
        model.Layer("hostagent.env", None, nobody),
        model.Layer(FILE, text.encode(), nobody),
        model.Layer("sidecar.env", None, nobody),
    ]
    return build.build_config(layers, FACTS)


def config_of(text: str) -> model.Config:
    outcome = build_config(text)
    assert outcome.problems == ()
    assert outcome.config is not None
    return outcome.config


def environment_of(config: model.Config) -> dict[str, str]:
    return dict(pilot.build_environment(config, FACTS, "/run/x"))


def ca(config: model.Config) -> tuple[str, int, str]:
    identity = config.identity
    return identity.ca_host, identity.ca_port, identity.server_name


def pilot_at(config: model.Config) -> str:
    return config.proxy.discovery_address


def ports(config: model.Config) -> tuple[int, int, int, int]:
    redirection = config.redirection
    return (
        redirection.outbound_capture_port,
        redirection.inbound_capture_port,
        redirection.tunnel_port,
        config.proxy.status_port,
    )


def of_agent(key: str) -> Callable[[model.Config], str | None]:
    return lambda config: environment_of(config).get(key)


DEFAULT_NAME = "istiod.istio-system.svc"
Row = tuple[str, Callable[[model.Config], object], object]
ROWS: dict[str, Row] = {
    # CA_ADDR: explicit > the control plane's own address > istiod.<sysns>.svc:15012
    "ca-default": ("", ca, (DEFAULT_NAME, 15012, DEFAULT_NAME)),
    "ca-explicit": (
        "CA_ADDR=ca.example:1\nPILOT_ADDRESS=pilot.example:2\nISTIO_PILOT_PORT=3",
        ca,
        ("ca.example", 1, "ca.example"),
    ),
    "ca-of-pilot-address": (
        "PILOT_ADDRESS=istiod-canary.istio-system.svc:15012\nISTIO_PILOT_PORT=3",
        ca,
        ("istiod-canary.istio-system.svc", 15012, "istiod-canary.istio-system.svc"),
    ),
    "ca-of-a-node-port": (
        "PILOT_ADDRESS=192.168.49.2:31512",
        ca,
        ("192.168.49.2", 31512, DEFAULT_NAME),
    ),
    "ca-of-a-node-port-by-ipv6": (
        "PILOT_ADDRESS=[fd00::2]:31512\nISTIO_SYSTEM_NAMESPACE=mesh",
        ca,
        ("fd00::2", 31512, "istiod.mesh.svc"),
    ),
    "ca-of-localhost": ("PILOT_ADDRESS=localhost:9", ca, ("localhost", 9, DEFAULT_NAME)),
    "ca-of-pilot-port": ("ISTIO_PILOT_PORT=32018", ca, (DEFAULT_NAME, 32018, DEFAULT_NAME)),
    "ca-of-namespace": (
        "ISTIO_SYSTEM_NAMESPACE=mesh",
        ca,
        ("istiod.mesh.svc", 15012, "istiod.mesh.svc"),
    ),
    "ca-of-namespace-and-port": (
        "ISTIO_SYSTEM_NAMESPACE=mesh\nISTIO_PILOT_PORT=7",
        ca,
        ("istiod.mesh.svc", 7, "istiod.mesh.svc"),
    ),
    "ca-empty-is-unset": (
        "CA_ADDR=\nPILOT_ADDRESS=''\nISTIO_PILOT_PORT=7",
        ca,
        (DEFAULT_NAME, 7, DEFAULT_NAME),
    ),
    "ca-name-of-istiod-san": (
        "PILOT_ADDRESS=192.168.49.2:31512\nISTIOD_SAN=istiod-canary.istio-system.svc",
        ca,
        ("192.168.49.2", 31512, "istiod-canary.istio-system.svc"),
    ),
    "ca-for-pilot-agent": (
        "PILOT_ADDRESS=192.168.49.2:31512", of_agent("CA_ADDR"), "192.168.49.2:31512",
    ),
    # The control plane itself
    "pilot-default": ("", pilot_at, f"{DEFAULT_NAME}:15012"),
    "pilot-port": ("ISTIO_PILOT_PORT=15011", pilot_at, f"{DEFAULT_NAME}:15011"),
    "pilot-address": ("PILOT_ADDRESS=p:1\nISTIO_PILOT_PORT=2", pilot_at, "p:1"),
    "pilot-not-moved-by-the-ca": ("CA_ADDR=ca.example:1", pilot_at, f"{DEFAULT_NAME}:15012"),
    "pilot-namespace": ("ISTIO_SYSTEM_NAMESPACE=mesh", pilot_at, "istiod.mesh.svc:15012"),
    # PROXY_CONFIG: a custom address is added; else the text, or one of two lines
    "proxy-config-default": (
        "",
        of_agent("PROXY_CONFIG"),
        'serviceCluster: "rawvm"\ncontrolPlaneAuthPolicy: "MUTUAL_TLS"\n',
    ),
    "proxy-config-service": (
        "ISTIO_SERVICE=shop.web\nISTIO_CP_AUTH=NONE",
        of_agent("PROXY_CONFIG"),
        'serviceCluster: "shop.web"\ncontrolPlaneAuthPolicy: "NONE"\n',
    ),
    "proxy-config-auth-of-0.5": (
        "CONTROL_PLANE_AUTH_POLICY=NONE",
        of_agent("PROXY_CONFIG"),
        'serviceCluster: "rawvm"\ncontrolPlaneAuthPolicy: "NONE"\n',
    ),
    "proxy-config-auth-of-0.8": (
        "CONTROL_PLANE_AUTH_POLICY=NONE\nISTIO_CP_AUTH=MUTUAL_TLS",
        of_agent("PROXY_CONFIG"),
        'serviceCluster: "rawvm"\ncontrolPlaneAuthPolicy: "MUTUAL_TLS"\n',
    ),
    "proxy-config-own": ("PROXY_CONFIG='a: 1'", of_agent("PROXY_CONFIG"), "a: 1"),
    "proxy-config-pilot": (
        "ISTIO_PILOT_PORT=7", of_agent("PROXY_CONFIG"), f'discoveryAddress: "{DEFAULT_NAME}:7"\n',
    ),
    # Who this host is
    "namespace-default": ("", lambda config: config.identity.namespace, "default"),
    "namespace": ("ISTIO_NAMESPACE=a\nPOD_NAMESPACE=b", of_agent("POD_NAMESPACE"), "a"),
    # Istio's script has `default` here; releases before 0.2.12 took the value.
    "namespace-of-pod": ("POD_NAMESPACE=b", of_agent("POD_NAMESPACE"), "b"),
    "account-default": ("", lambda config: config.identity.service_account, "default"),
    "account": ("SERVICE_ACCOUNT=vm-sa", of_agent("SERVICE_ACCOUNT"), "vm-sa"),
    "trust-domain-default": ("", of_agent("TRUST_DOMAIN"), "cluster.local"),
    # Istio sends an empty one, which istiod ignores.
    "trust-domain-empty": ("TRUST_DOMAIN=''", of_agent("TRUST_DOMAIN"), "cluster.local"),
    "pod-name-default": ("", of_agent("POD_NAME"), "vm-1"),
    "pod-name": ("POD_NAME=other", of_agent("POD_NAME"), "other"),
    "address-default": ("", of_agent("INSTANCE_IP"), "10.0.0.5"),
    "address": ("ISTIO_SVC_IP=192.0.2.7", of_agent("INSTANCE_IP"), "192.0.2.7"),
    # Certificates
    "roots-default": ("", lambda config: config.identity.root_file, "/etc/certs/root-cert.pem"),
    "roots-of-prov-cert": (
        "PROV_CERT=./var/run/secrets/istio",
        lambda config: config.identity.root_file,
        "/var/run/secrets/istio/root-cert.pem",
    ),
    "roots": (
        "CA_ROOT_CA=/a.pem\nPROV_CERT=/b", lambda config: config.identity.root_file, "/a.pem",
    ),
    # Istio looks in /etc/certs first; here the roots that came with the certificate count.
    "xds-roots-default": (
        "", of_agent("XDS_ROOT_CA"), "./var/run/secrets/workload-spiffe-credentials/root-cert.pem",
    ),
    "xds-roots": ("XDS_ROOT_CA=./a.pem", of_agent("XDS_ROOT_CA"), "/a.pem"),
    "xds-roots-public": ("XDS_ROOT_CA=SYSTEM", of_agent("XDS_ROOT_CA"), "SYSTEM"),
    "roots-public": (
        "CA_ROOT_CA=SYSTEM",
        lambda config: (config.identity.root_file, config.identity.has_public_roots),
        ("/etc/ssl/certs/ca-certificates.crt", True),
    ),
    "output-default": ("", lambda config: config.identity.output_dir, "/etc/certs"),
    "output-relative": (
        "OUTPUT_CERTS=./srv/c", lambda config: config.identity.output_dir, "/srv/c",
    ),
    "output-of-1.0": ("CERTS_DIR=/srv/c", lambda config: config.identity.output_dir, "/srv/c"),
    "output-not-of-prov-cert": (
        "PROV_CERT=/srv/c", lambda config: config.identity.output_dir, "/etc/certs",
    ),
    # Where somebody else renews the certificate, readers never get the files themselves.
    "mounted-default": ("", lambda config: config.identity.mounted_dir, ""),
    "mounted": (
        "FILE_MOUNTED_CERTS=true\nPROV_CERT=''",
        lambda config: (config.identity.mounted_dir, config.identity.output_dir),
        ("/etc/certs", "/var/lib/istio-hostagent/mounted"),
    ),
    "mounted-elsewhere": (
        "FILE_MOUNTED_CERTS=true\nPROV_CERT=/srv/svid/",
        lambda config: (config.identity.mounted_dir, config.identity.output_dir),
        ("/srv/svid", "/etc/certs"),
    ),
    "token-default": (
        "", lambda config: config.identity.token_file, "/var/run/secrets/tokens/istio-token",
    ),
    "ttl-default": ("", lambda config: config.identity.ttl_s, 86400),
    "ratio-default": ("", lambda config: config.identity.grace_ratio, 0.5),
    "jitter-default": ("", lambda config: config.identity.grace_spread, 0.05),
    "jitter-none": (
        "SECRET_GRACE_PERIOD_RATIO_JITTER=0", lambda config: config.identity.grace_spread, 0.0,
    ),
    # Ports, mode, flags, programs
    "ports-default": ("", ports, (15001, 15006, 15008, 15021)),
    "ports": (
        "ENVOY_PORT=1\nINBOUND_CAPTURE_PORT=2\nINBOUND_TUNNEL_PORT=3\nENVOY_STATUS_PORT=4",
        ports,
        (1, 2, 3, 4),
    ),
    "nothing-is-captured-by-default": (
        "",
        lambda config: bool(config.redirection.inbound or config.redirection.outbound),
        False,
    ),
    "rules-are-ours-by-default": ("", lambda config: config.redirection.is_managed, True),
    "flags-default": ("", lambda config: config.proxy.agent_flags, ()),
    "programs-default": ("", lambda config: config.proxy.bin_base, "/usr/local/bin"),
    # pilot-agent alone asks three clouds for theirs, which takes up to 5 s.
    "cloud-default": ("", of_agent("CLOUD_PLATFORM"), "none"),
    "cloud": ("CLOUD_PLATFORM=aws", of_agent("CLOUD_PLATFORM"), "aws"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "read", "expected"), ROWS.values(), ids=ROWS)
def test_default_or_fallback(
    text: str, read: Callable[[model.Config], object], expected: object
) -> None:
    assert read(config_of(text)) == expected


@pytest.mark.parametrize(
    ("text", "line", "key", "address"),
    [
        ("PILOT_ADDRESS=istiod.mesh.svc:15010", 1, "PILOT_ADDRESS", "istiod.mesh.svc:15010"),
        ("\nISTIO_PILOT_PORT=15010", 2, "ISTIO_PILOT_PORT", f"{DEFAULT_NAME}:15010"),
    ],
)
def test_plain_text_port_that_the_ca_would_get_is_refused_where_it_is_written(
    text: str, line: int, key: str, address: str
) -> None:
    assert build_config(text).problems == (
        Problem(
            FILE,
            line,
            f"{key}: CA_ADDR is not set and would be {address}: port 15010 speaks plain text;"
            " write CA_ADDR=HOST:15012, or this address there too",
        ),
    )
    assert build_config(f"{text}\nCA_ADDR=istiod.mesh.svc:15012").problems == ()


def test_plain_text_is_spoken_to_a_ca_whose_own_key_says_so_with_a_warning() -> None:
    outcome = build_config("CA_ADDR=istiod.mesh.svc:15010")
    assert outcome.config is not None
    assert outcome.config.identity.is_plain
    [warning] = outcome.warnings
    assert (warning.file, warning.line) == (FILE, 1)
    assert "the token goes to the CA in clear" in warning.message


def test_each_default_names_keys_that_exist() -> None:
    shown = {value.key: value.text for value in build_config("").values}
    assert shown["CA_ADDR"] == shown["PILOT_ADDRESS"] == f"{DEFAULT_NAME}:15012"
    assert not [text for text in shown.values() if "<" in text]
