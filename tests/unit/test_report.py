"""What the one line says, and what in control and in the mesh mean."""

from istio_hostagent.identity import rotation as rotations
from istio_hostagent.lifecycle import life as lives
from istio_hostagent.lifecycle import redirection as redirections
from istio_hostagent.lifecycle.report import Texts, describe
from istio_hostagent.lifecycle.situation import Situation
from istio_hostagent.supervise import child as children
from tests.lifecycle.world import EMPTY, OFFERS
from tests.unit.test_decide import JOINED, NOW, WHOLE, begun

TEXTS = Texts(
    identity="spiffe://cluster.local/ns/default/sa/web",
    held_until="2026-11-22T10:00:00Z",
    proxy_name="envoy",
)
OUT = begun(lives.Disk(), EMPTY)
CONFIGURED = begun(lives.Disk(), OFFERS["A"])._replace(in_force=OFFERS["A"].revision)


def test_what_waits_for_a_person_is_said_and_the_agent_is_in_control() -> None:
    report = describe(OUT, Situation(), NOW, TEXTS._replace(obstacles=("waiting for /c.env",)))
    assert report.is_in_control
    assert not report.is_in_mesh
    assert report.summary == "not in the mesh: waiting for /c.env"


def test_the_first_obstacle_is_said_of_those_that_are_there() -> None:
    texts = TEXTS._replace(obstacles=("", "", "proxy: it hangs", "certificate: refused"))
    assert describe(CONFIGURED, WHOLE, NOW, texts).summary == "not in the mesh: proxy: it hangs"


def test_in_the_mesh_names_identity_and_end_of_the_certificate() -> None:
    report = describe(JOINED, WHOLE, NOW, TEXTS)
    assert report.is_in_mesh
    assert report.is_in_control
    assert "spiffe://cluster.local/ns/default/sa/web" in report.summary
    assert "2026-11-22T10:00:00Z" in report.summary


def test_a_kept_configuration_is_said_while_in_the_mesh() -> None:
    texts = TEXTS._replace(obstacles=("/s.env:1: unknown escape; the previous stays",))
    report = describe(JOINED, WHOLE, NOW, texts)
    assert report.is_in_mesh
    assert "; /s.env:1: unknown escape; the previous stays" in report.summary


def test_while_things_only_take_their_time_the_agent_is_not_in_control_yet() -> None:
    waiting = WHOLE._replace(rotation=rotations.configured())
    report = describe(CONFIGURED, waiting, NOW, TEXTS)
    assert not report.is_in_control
    assert "waiting for the first certificate" in report.summary


def test_rules_that_could_not_be_tested_are_said_while_in_the_mesh() -> None:
    partly = WHOLE.redirection._replace(rules=redirections.Rules.PARTLY)
    report = describe(JOINED, WHOLE._replace(redirection=partly), NOW, TEXTS)
    assert report.is_in_mesh
    assert "some rules could not be tested" in report.summary


def test_a_control_plane_that_is_away_is_said_in_the_mesh_and_out_of_it() -> None:
    texts = TEXTS._replace(control_plane_away_since="2026-11-29T01:49:09Z")
    report = describe(JOINED, WHOLE, NOW, texts)
    assert report.is_in_mesh
    assert report.is_in_control
    assert report.summary == (
        f"{describe(JOINED, WHOLE, NOW, TEXTS).summary}; no connection to the control plane since"
        " 2026-11-29T01:49:09Z, the proxy goes on with its last configuration: look for xds-grpc in"
        " the log, and at istiod and the way to it"
    )
    both = describe(JOINED, WHOLE, NOW, texts._replace(obstacles=("unknown escape",))).summary
    assert "unknown escape" in both
    assert "control plane since 2026-11-29T01:49:09Z" in both

    starting = WHOLE._replace(child=WHOLE.child._replace(state=children.State.STARTING))
    report = describe(JOINED, starting, NOW, texts)
    assert not report.is_in_mesh
    assert "waiting for envoy to become ready; no connection to the control" in report.summary
    assert "goes on" not in report.summary


def test_in_the_mesh_needs_each_of_its_parts() -> None:
    installed = WHOLE.redirection._replace(rules=redirections.Rules.IN)
    for broken in (
        WHOLE._replace(rotation=rotations.configured()),
        WHOLE._replace(redirection=installed),
        WHOLE._replace(child=WHOLE.child._replace(state=children.State.STARTING)),
        WHOLE._replace(is_outdated=True),
    ):
        assert not describe(JOINED, broken, NOW, TEXTS).is_in_mesh
    assert not describe(CONFIGURED, WHOLE, NOW, TEXTS).is_in_mesh
