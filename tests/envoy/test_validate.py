"""Envoy's own judgement of every kind of bootstrap that we write."""

from ipaddress import ip_address, ip_network

import pytest

from istio_hostagent.config import model

from . import proxy

pytestmark = pytest.mark.envoy

NETWORKS = ("10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "fd00::/8", "192.0.2.7/32")
DUPLICATES = model.CidrSet.of(ip_network(text) for text in NETWORKS)

ISTIOD = model.Istiod("istiod.istio-system.svc", 15012, "istiod.istio-system.svc")
DIRECTED = model.ProxySettings(istiod=ISTIOD, secret_socket="/run/x/secrets.sock")

SETTINGS = {
    "istiod": DIRECTED,
    "istiod-at-an-address": DIRECTED._replace(istiod=ISTIOD._replace(host="fd00::2")),
    "istiod-by-an-address": DIRECTED._replace(istiod=ISTIOD._replace(server_name="192.0.2.1")),
    "istiod-of-public-roots": DIRECTED._replace(discovery_root="SYSTEM"),
    "istiod-with-metadata": DIRECTED._replace(
        environment=(
            ("ISTIO_METAJSON_LABELS", '{"app":"web","istio-locality":"eu.west"}'),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("PROXY_CONFIG", '{"concurrency":2,"proxyMetadata":{"A":"b"}}'),
        )
    ),
    "no-mesh": model.ProxySettings(),
    "every-destination": model.ProxySettings(mesh=model.CidrSet(is_all=True)),
    "networks-twice": model.ProxySettings(mesh=DUPLICATES),
    "strict": model.ProxySettings(mesh=DUPLICATES, mtls=model.Mtls.STRICT),
    "strict-without-mesh": model.ProxySettings(mtls=model.Mtls.STRICT),
    "access-log": model.ProxySettings(mesh=DUPLICATES, has_access_log=True),
    "component-levels": model.ProxySettings(log_level="info,misc:error,filter:debug"),
    "other-ports": model.ProxySettings(mesh=DUPLICATES, status_port=16021, concurrency=1),
    # 15001 is both a port of sshd and the one we close: closing wins, and Envoy sees it once.
    "status-port-is-ssh-port": model.ProxySettings(mesh=DUPLICATES, status_port=22),
}


@pytest.mark.parametrize("has_ipv6", [True, False], ids=["v6", "v4"])
@pytest.mark.parametrize("case", SETTINGS)
def test_envoy_accepts_every_variant(a: proxy.Proxy, case: str, has_ipv6: bool) -> None:
    a.rotate()
    facts = proxy.FACTS._replace(has_ipv6=has_ipv6, ssh_ports=(22, 2222, 15001))
    status, output = a.validate(SETTINGS[case], facts)
    assert status == 0, output
    assert "[warning]" not in output


def test_envoy_accepts_the_way_of_the_resolver_to_istiod(a: proxy.Proxy) -> None:
    redirection = model.Redirection(dns=model.Dns(is_captured=True))
    status, output = a.validate(DIRECTED, redirection=redirection)
    assert (status, output) == (0, "")


def test_envoy_accepts_the_argument_of_a_host_with_ipv6_only(a: proxy.Proxy) -> None:
    a.rotate()
    facts = proxy.FACTS._replace(addresses=(ip_address("2001:db8::1"),))
    assert a.validate(model.ProxySettings(), facts) == (0, "")


def test_a_wrong_bootstrap_is_refused_with_a_reason(a: proxy.Proxy) -> None:
    status, output = a.validate(model.ProxySettings(status_port=99_999))
    assert status == 1
    assert "99999" in output
