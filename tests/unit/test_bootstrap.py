"""The generated bootstrap as a text; what Envoy makes of it is tested in tests/envoy."""

import json
from ipaddress import ip_network
from typing import Any

import pytest

from istio_hostagent.config import model
from istio_hostagent.supervise import bootstrap, builds, tls

from .test_specs import FACTS, build

NETWORKS = tuple(ip_network(text) for text in ("10.0.0.0/8", "fd00::/8", "10.0.0.0/8"))
ADMIN = "/run/x/admin/envoy.sock"
SOURCE = tls.Source("/run/x/sds")
MESH = model.CidrSet.of(NETWORKS)


def render(config: model.Config, facts: model.HostFacts = FACTS) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(bootstrap.render_bootstrap(config, facts, SOURCE, ADMIN))
    return parsed


def listener(parsed: dict[str, Any], name: str) -> dict[str, Any]:
    listeners: list[dict[str, Any]] = parsed["static_resources"]["listeners"]
    return next(each for each in listeners if each["name"] == name)


def endpoints_of(parsed: dict[str, Any], cluster: str) -> list[Any]:
    clusters = parsed["static_resources"]["clusters"]
    (found,) = (each for each in clusters if each["name"] == cluster)
    groups = found["load_assignment"]["endpoints"]
    return [each["endpoint"]["address"] for group in groups for each in group["lb_endpoints"]]


def targets(made: dict[str, Any]) -> list[tuple[Any, str]]:
    """What each filter chain matches, and the cluster it leads to."""
    chains = [*made["filter_chains"], made["default_filter_chain"]]
    return [
        (chain.get("filter_chain_match"), chain["filters"][0]["typed_config"]["cluster"])
        for chain in chains
    ]


def test_same_input_gives_the_same_bytes_and_another_input_others() -> None:
    config = build(mesh=MESH, has_access_log=True)
    text = bootstrap.render_bootstrap(config, FACTS, SOURCE, "/a")
    assert text == bootstrap.render_bootstrap(
        build(mesh=MESH, has_access_log=True), FACTS, SOURCE, "/a"
    )
    assert text != bootstrap.render_bootstrap(build(mesh=MESH), FACTS, SOURCE, "/a")


def test_no_mesh_means_no_tls_on_the_way_out() -> None:
    parsed = render(build())
    names = [cluster["name"] for cluster in parsed["static_resources"]["clusters"]]
    assert "outbound_mesh" not in names
    assert targets(listener(parsed, "outbound")) == [
        ({"destination_port": 15001}, "nowhere"),
        ({"destination_port": 15006}, "nowhere"),
        (None, "outbound_passthrough"),
    ]


def test_mesh_destinations_go_out_with_mutual_tls_but_for_ports_nobody_captures() -> None:
    facts = FACTS._replace(ssh_ports=(22, 2222, 15001))
    parsed = render(build(mesh=MESH), facts)
    ranges = [
        {"address_prefix": "10.0.0.0", "prefix_len": 8},
        {"address_prefix": "fd00::", "prefix_len": 8},
    ]
    assert targets(listener(parsed, "outbound"))[2:] == [
        ({"destination_port": 22}, "outbound_passthrough"),
        ({"destination_port": 2222}, "outbound_passthrough"),
        ({"destination_port": 15021}, "outbound_passthrough"),
        ({"prefix_ranges": ranges}, "outbound_mesh"),
        (None, "outbound_passthrough"),
    ]


def test_mesh_of_everything_leaves_metadata_services_alone() -> None:
    parsed = render(build(mesh=model.CidrSet(is_all=True)))
    chains = targets(listener(parsed, "outbound"))
    off, everywhere = chains[-3], chains[-2]
    assert off[1] == "outbound_passthrough"
    assert {"address_prefix": "169.254.0.0", "prefix_len": 16} in off[0]["prefix_ranges"]
    assert everywhere[1] == "outbound_mesh"
    assert {"address_prefix": "::", "prefix_len": 0} in everywhere[0]["prefix_ranges"]


@pytest.mark.parametrize(
    ("mtls", "cluster", "continues"),
    [
        (model.Mtls.PERMISSIVE, "inbound_application", True),
        (model.Mtls.STRICT, "nowhere", False),
    ],
    ids=str,
)
def test_what_is_not_mutual_tls_passes_or_is_closed(
    mtls: model.Mtls, cluster: str, continues: bool
) -> None:
    inbound = listener(render(build(mtls=mtls)), "inbound")
    assert targets(inbound)[-1] == (None, cluster)
    assert inbound["continue_on_listener_filters_timeout"] is continues


@pytest.mark.parametrize(
    ("has_ipv6", "address"),
    [
        (True, {"address": "::", "port_value": 15006, "ipv4_compat": True}),
        (False, {"address": "0.0.0.0", "port_value": 15006}),
    ],
    ids=["v6", "v4"],
)
def test_listeners_take_connections_to_every_address(
    has_ipv6: bool, address: dict[str, object]
) -> None:
    parsed = render(build(), FACTS._replace(has_ipv6=has_ipv6))
    assert listener(parsed, "inbound")["address"] == {"socket_address": address}


def test_no_idle_connection_is_cut() -> None:
    # Envoy's own default is an hour, which no test can wait for.
    parsed = render(build(mesh=MESH))
    for name in ("outbound", "inbound"):
        made = listener(parsed, name)
        for chain in [*made["filter_chains"], made["default_filter_chain"]]:
            assert chain["filters"][0]["typed_config"]["idle_timeout"] == "0s"


def test_access_log_names_the_peer_of_each_direction() -> None:
    parsed = render(build(mesh=MESH, has_access_log=True))
    for name, peer in (
        ("outbound", "%UPSTREAM_PEER_URI_SAN%"),
        ("inbound", "%DOWNSTREAM_PEER_URI_SAN%"),
    ):
        for chain in listener(parsed, name)["filter_chains"]:
            (log,) = chain["filters"][0]["typed_config"]["access_log"]
            line = log["typed_config"]["log_format"]["json_format"]
            assert (line["direction"], line["peer"]) == (name, peer)
    assert "access_log" not in json.dumps(render(build(mesh=MESH)))


def test_admin_interface_is_a_socket_of_the_proxys_user_alone() -> None:
    parsed = render(build())
    assert parsed["admin"]["address"] == {"pipe": {"path": ADMIN, "mode": 0o600}}
    (endpoint,) = endpoints_of(parsed, "admin")
    assert endpoint == {"pipe": {"path": ADMIN}}


def test_capture_ports_are_those_of_the_redirection() -> None:
    redirection = model.Redirection(outbound_capture_port=25001, inbound_capture_port=25006)
    parsed = render(build()._replace(redirection=redirection))
    for name, port in (("outbound", 25001), ("inbound", 25006)):
        made = listener(parsed, name)
        assert made["address"]["socket_address"]["port_value"] == port
        closed = [match for match, cluster in targets(made)[:2] if cluster == "nowhere"]
        assert closed == [{"destination_port": 25001}, {"destination_port": 25006}]


def test_secrets_are_named_by_path_and_watched_where_the_swap_happens() -> None:
    files = bootstrap.render_sds("/etc/certs")
    text = bootstrap.render_bootstrap(build(mesh=MESH), FACTS, SOURCE, ADMIN)
    watched = {"path": "/etc/certs"}
    for name, body in files.items():
        assert f'"/run/x/sds/{name}"' in text
        (resource,) = json.loads(body)["resources"]
        secret = resource.get("tls_certificate") or resource["validation_context"]
        assert secret["watched_directory"] == watched
    assert '"/etc/certs/key.pem"' in "".join(files.values())
    assert "PRIVATE KEY" not in text + "".join(files.values())


def test_output_directory_appears_only_in_the_secrets() -> None:
    config = build()
    moved = config._replace(identity=config.identity._replace(output_dir="/srv/certs"))
    assert bootstrap.render_bootstrap(moved, FACTS, SOURCE, ADMIN) == bootstrap.render_bootstrap(
        config, FACTS, SOURCE, ADMIN
    )


def test_a_secret_server_is_asked_by_istios_names_and_no_file_is_read() -> None:
    config = build(mesh=MESH, secret_socket="/run/x/secrets.sock")
    built = builds.build(config, FACTS, model.ProxyKind.ENVOY, "/envoy", "/run/x")
    assert list(built.texts) == [builds.BOOTSTRAP]
    text = built.texts[builds.BOOTSTRAP]
    assert "/etc/certs" not in text
    assert "path_config_source" not in text
    parsed = json.loads(text)
    assert endpoints_of(parsed, "sds-grpc") == [{"pipe": {"path": "/run/x/secrets.sock"}}]
    assert text.count('"name": "default"') == text.count('"name": "ROOTCA"') == 2
    assert text.count('"cluster_name": "sds-grpc"') == 5
    assert builds.shows_certificate(built)
    # There is nothing to be spelled in another way.
    assert builds.respelled(built, "/etc/certs", 1) == built


def test_whether_a_certificate_is_shown_does_not_depend_on_whence_it_comes() -> None:
    for socket in (None, "/run/x/secrets.sock"):
        config = build(mtls=model.Mtls.PERMISSIVE, secret_socket=socket)
        built = builds.build(config, FACTS, model.ProxyKind.ENVOY, "/envoy", "/run/x")
        assert builds.shows_certificate(built)
    other = builds.build(build(), FACTS, model.ProxyKind.PILOT_AGENT, "/pilot-agent", "/run/x")
    assert not builds.shows_certificate(other)
    assert builds.respelled(other, "/etc/certs", 1) == other


def test_files_are_spelled_in_another_way_each_time() -> None:
    built = builds.build(build(), FACTS, model.ProxyKind.ENVOY, "/envoy", "/run/x")
    texts = [builds.respelled(built, "/etc/certs", count).texts for count in (1, 2)]
    assert ["/etc/certs/./key.pem" in str(each) for each in texts] == [True, False]
    assert all(each[builds.BOOTSTRAP] == built.texts[builds.BOOTSTRAP] for each in texts)
