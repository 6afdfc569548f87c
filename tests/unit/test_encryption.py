"""One line about what is encrypted, for each combination that people have."""

from ipaddress import ip_network

import pytest

from istio_hostagent.config import encryption, model

IDENTITY = model.IdentitySettings("ca", 1, ("ca",), "td", "ns", "sa", "", "/t", "/r", "/o", 3600)
ALL, NONE = model.CidrSet(is_all=True), model.CidrSet()
LISTED = model.PortSet(ranges=((8080, 8080),))
OUT = "captured traffic to {} is encrypted (mutual TLS), all other is not"
PLAIN = "nothing outbound is encrypted (ISTIO_HOSTAGENT_MESH_CIDR is empty)"
PERMISSIVE = "plain text is accepted on captured ports (ISTIO_HOSTAGENT_MTLS=permissive)"
STRICT = "plain text is refused on captured ports"
CONTROL_PLANE = "as the control plane says"


def cidrs(*networks: str) -> model.CidrSet:
    return model.CidrSet.of(map(ip_network, networks))


def describe(
    *,
    mesh: model.CidrSet = NONE,
    is_strict: bool = False,
    outbound: model.CidrSet = ALL,
    inbound: model.PortSet = LISTED,
    kind: model.ProxyKind = model.ProxyKind.ENVOY,
) -> str:
    mtls = model.Mtls.STRICT if is_strict else model.Mtls.PERMISSIVE
    redirection = model.Redirection(outbound=outbound, inbound=inbound)
    proxy = model.ProxySettings(mesh=mesh, mtls=mtls)
    return encryption.describe(model.Config(redirection, IDENTITY, proxy), kind)


def test_example_of_before_says_that_nothing_is_encrypted() -> None:
    assert describe() == f"{PLAIN}; {PERMISSIVE}"


def test_mesh_and_strict_are_both_said() -> None:
    mesh = cidrs("10.96.0.0/12", "fd00::/8")
    text = describe(mesh=mesh, is_strict=True)
    assert text == f"{OUT.format('10.96.0.0/12, fd00::/8')}; {STRICT}"
    assert describe(mesh=ALL).startswith(OUT.format("everybody"))


def test_many_networks_stay_one_line() -> None:
    mesh = cidrs(*(f"10.{n}.0.0/16" for n in range(10)))
    assert "10.0.0.0/16, 10.1.0.0/16, 10.2.0.0/16 and 7 more networks" in describe(mesh=mesh)


def test_what_is_not_captured_is_not_said_to_be_anything() -> None:
    text = describe(mesh=ALL, is_strict=True, outbound=NONE, inbound=model.PortSet())
    assert (
        text == "nothing outbound is captured; nothing inbound is captured, plain text is accepted"
    )


@pytest.mark.parametrize("kind", [model.ProxyKind.PILOT_AGENT, model.ProxyKind.AUTO])
def test_control_plane_decides_where_there_is_one(kind: model.ProxyKind) -> None:
    assert CONTROL_PLANE in describe(kind=kind)
    assert (PLAIN in describe(kind=kind)) is (kind is model.ProxyKind.AUTO)
