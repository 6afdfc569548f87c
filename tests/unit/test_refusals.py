"""What Envoy refuses of its control plane's words, from lines as real ones wrote them."""

import pytest

from istio_hostagent.supervise import refusals
from istio_hostagent.supervise.refusals import Refusal

PREFIX = "[2026-11-30 01:45:26.272][31082][warning][upstream] [source/common/x.cc:74] "
LACKS = (
    "Didn't find a registered implementation for 'istio.metadata_exchange' with type URL: 'x.C'"
)
STATS = "Didn't find a registered implementation for 'istio.stats' with type URL: 'stats.Config'"
# Envoy 1.40; the summary in the log of every release.
CLUSTER = f"{PREFIX}cds: cluster 'outbound|80||svc.example' config rejected: {LACKS}"
LISTENER = f"{PREFIX}lds: listener 'virtualInbound' config rejected: {STATS}"
OLDER = (
    f"{PREFIX}gRPC config for type.googleapis.com/envoy.config.listener.v3.Listener rejected: Error"
    f" adding/updating listener(s) 0.0.0.0_80: {LACKS}"
)
ROUTE = (
    f"{PREFIX}gRPC config for type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    " rejected: Only unique values for domains are permitted"
)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([CLUSTER], [("cluster", "outbound|80||svc.example")]),
        ([CLUSTER, CLUSTER], [("cluster", "outbound|80||svc.example")]),
        (
            [CLUSTER, LISTENER, OLDER],
            [("cluster", "outbound|80||svc.example"), ("listener", "virtualInbound")],
        ),
        ([OLDER], [("listener", "0.0.0.0_80")]),
        ([ROUTE], [("routeconfiguration", "")]),
        (["cds: cluster '' config rejected: x", "the request was rejected: x"], []),
        ([f"cds: cluster '{'x' * 300}' config rejected: y"], []),
    ],
    ids=str,
)
def test_each_resource_is_named_once(lines: list[str], expected: list[tuple[str, str]]) -> None:
    found = refusals.parse_lines(lines)
    assert [(each.kind, each.name) for each in found] == expected
    assert all(refusals.MARK in line for line in (CLUSTER, LISTENER, OLDER, ROUTE))


def test_they_are_few_short_and_printable() -> None:
    lines = [f"lds: listener 'l{n}' config rejected: \x1b[31m{'x' * 999}" for n in range(99)]
    found = refusals.parse_lines(lines)
    assert len(found) == refusals.MOST
    assert all(each.reason.isprintable() and len(each.reason) < 200 for each in found)
    assert "listener l0 and 15 or more others" in refusals.describe(found)


def test_what_this_envoy_lacks_is_said_with_a_remedy() -> None:
    text = refusals.describe(refusals.parse_lines([CLUSTER, LISTENER]))
    start = "refuses what istiod sends: cluster outbound|80||svc.example and 1 others: it does not"
    assert text.startswith(f"{start} have istio.metadata_exchange, istio.stats (take the Envoy")
    reason = Refusal("routeconfiguration", "", "no domain")
    assert refusals.describe((reason,)) == (
        "refuses what istiod sends: routeconfiguration: no domain"
    )
    assert refusals.describe(()) == ""
