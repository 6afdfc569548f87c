"""`reset`: what makes a host this one goes, configuration and what is others' stays."""

import os

import pytest

from tests.lab.host import Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, join

pytestmark = pytest.mark.envoy


@pytest.fixture
def left(make_host: MakeHost, envoy: str) -> Host:
    """A host that was in the mesh and whose agent was stopped, outside systemd."""
    host = make_host(envoy=envoy)
    (host.directory / "others").mkdir()
    for_others = host.directory / "others" / "mesh.pem"
    host.write_hostagent(ISTIO_HOSTAGENT_ENVOY=envoy, ISTIO_HOSTAGENT_OUTPUTS=f"pem:{for_others}")
    join(host)
    eventually(for_others.exists, "written for others")
    assert host.stop() == 0
    return host


def content(host: Host) -> set[str]:
    """Everything in the directories in which a host keeps who it is."""
    places = (host.state, host.certs, host.directory / "others")
    return {str(path) for place in places for path in place.rglob("*")}


def test_it_is_refused_while_the_agent_runs(make_host: MakeHost, envoy: str) -> None:
    host = make_host(envoy=envoy)
    join(host)
    before = content(host)
    done = host.verb("reset", is_checked=False)
    assert done.returncode == 75
    assert "refused while the agent runs" in done.stderr
    assert content(host) == before
    assert host.status()["in_mesh"]


def test_nothing_of_the_agents_is_left_and_credentials_are_named(left: Host) -> None:
    assert content(left)
    key = (left.certs / "key.pem").resolve().read_text()
    shown = left.verb("reset").stdout
    assert content(left) == set()
    assert left.state.is_dir()
    for name in ("accepted.json", "address", "certs"):
        assert f"removed {left.state}/{name}\n" in shown
    assert f"removed our certificate from {left.certs}\n" in shown
    assert f"removed {left.directory}/others/mesh.pem\n" in shown
    assert f"left {left.token} (--all removes it)\n" in shown
    assert left.token.exists()
    assert left.cluster_env.exists()
    assert left.verb("reset", "--quiet").stdout == ""  # and once more
    left.start()
    left.verb("wait", "--timeout", "60")
    assert (left.certs / "key.pem").resolve().read_text() != key


def test_what_somebody_has_put_in_place_of_what_was_written_for_others_stays(left: Host) -> None:
    path = left.directory / "others" / "mesh.pem"
    path.unlink()
    path.write_text("an operator's")
    shown = left.verb("reset").stdout
    assert path.read_text() == "an operator's"
    assert f"left: {path} stays: it was changed since this agent wrote it\n" in shown
    assert list(left.state.iterdir()) == []


def test_agents_with_a_name_have_a_reset_of_their_own(left: Host) -> None:
    # One as this version keeps it, and one as those before did.
    states = [left.state / "instances" / "certs", left.state / "shop"]
    for state in states:
        state.mkdir(parents=True)
        (state / "joined").write_text("then\n")
    shown = left.verb("reset").stdout
    assert all((state / "joined").exists() for state in states)
    assert {path.name for path in left.state.iterdir()} == {"instances", "shop"}
    for place, name in (("instances/certs", "certs"), ("shop", "shop")):
        tried = f"istio-hostagent --instance {name} reset removes it"
        assert f"left {left.state}/{place} ({tried})\n" in shown
    left.verb("--instance", "shop", "reset")
    assert (states[0] / "joined").exists()
    assert not states[1].exists()
    assert list((left.state / "instances" / "shop").iterdir()) == []
    left.verb("--instance", "certs", "reset")
    assert list(states[0].iterdir()) == []


def test_with_all_credentials_go_too_and_the_root_certificate_stays(left: Host) -> None:
    left.verb("reset")
    token = left.certs / "token"  # in a directory of istio-proxy's, as Istio's guides have it
    for name in ("key.pem", "cert-chain.pem", "root-cert.pem", "token"):
        (left.certs / name).write_text("an operator's")
    left.write_hostagent(ISTIO_HOSTAGENT_TOKEN_FILE=str(token))
    shown = left.verb("reset", "--all").stdout
    assert {path.name for path in left.certs.iterdir()} == {"root-cert.pem"}
    assert f"removed {token}\n" in shown


def test_with_all_a_bad_configuration_does_not_hide_where_credentials_are(left: Host) -> None:
    left.sidecar_env.write_text("ISTIO_INBOUND_PORTS=nonsense\n")
    done = left.verb("reset", "--all", is_checked=False)
    assert done.returncode == 78
    assert "sidecar.env:1: ISTIO_INBOUND_PORTS" in done.stderr
    assert content(left) == set()


def test_a_path_that_the_proxys_user_names_is_removed_with_no_more_than_his_rights(
    left: Host,
) -> None:
    victim = left.directory / "roots"
    victim.write_text("root's own")
    cluster = left.cluster_env.read_text()
    left.write_hostagent()
    left.cluster_env.write_text(f"{cluster}ISTIO_HOSTAGENT_TOKEN_FILE={victim}\n")
    os.chown(left.cluster_env, *proxy_user())
    done = left.verb("reset", "--all", is_checked=False)
    assert victim.read_text() == "root's own"
    assert done.returncode == 77
    assert f"{victim} (Permission denied)" in done.stderr


def test_a_token_in_a_directory_of_roots_goes_too(left: Host) -> None:
    shown = left.verb("reset", "--all").stdout  # it is istio-proxy's, its directory is root's
    assert not left.token.exists()
    assert f"removed {left.token}\n" in shown
