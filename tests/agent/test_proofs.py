"""What a proof is worth while others change things beside it, or change our own rules under it."""

from istio_hostagent.redirect import model
from tests.agent.host import MemoryHost


def test_a_guard_that_is_put_back_takes_nothing_from_what_packets_have_shown(
    host: MemoryHost,
) -> None:
    host.join()
    host.run(60.0)
    said = len(host.log.lines)
    for _ in range(5):
        host.lose_guard()
        host.settle()
        assert model.GUARD_TABLE in host.space.tables
        assert host.is_in_mesh
        host.run(5.0)
    assert not [line for line in host.log.lines[said:] if "degraded" in line]


def test_a_guard_that_is_loaded_again_and_again_does_not_keep_the_proxy_waiting(
    host: MemoryHost,
) -> None:
    """Early boot loads it, and so does whoever restarts its unit: the proof goes on."""
    host.join()
    host.kill()
    host.start()
    for _ in range(100):
        host.lose_guard()
        host.run(0.01)
    assert host.status["redirection"]["state"] == "proven"
    host.until(lambda: host.is_in_mesh, 2.0, "in the mesh")


def test_rules_that_were_changed_under_the_packets_are_put_back_and_not_disproved(
    host: MemoryHost,
) -> None:
    host.join()
    host.run(60.0)
    host.tell(is_ours=False)  # packets are sent 0.2 s later
    host.run(0.195)
    host.space.remove_rule(model.MAIN_TABLE, "ISTIO_OUTPUT", 0)
    host.run(0.01)
    host.tell(is_ours=True)  # the kernel tells of it a moment later
    host.until(lambda: host.has_rules and host.is_in_mesh, 0.5, "in the mesh")
    host.run(1.0)
    assert not [line for line in host.log.lines if "not proven:" in line]
    assert host.status["redirection"]["repaired"] == 1


def test_what_packets_disprove_is_said_where_nobody_has_touched_our_rules(
    host: MemoryHost,
) -> None:
    host.join()
    host.run(60.0)
    host.steal("10.96.")
    host.run(1.0)
    assert "packets show" in host.summary


def test_who_keeps_deleting_the_guard_is_answered_ever_more_slowly(host: MemoryHost) -> None:
    host.join()
    host.run(60.0)
    for _ in range(500):
        host.lose_guard()
        host.tell(is_ours=True)  # and touches our tables all the time
        host.run(0.02)
    assert host.status["redirection"]["repaired"] <= 20
    assert host.is_in_mesh
    assert "nft keeps changing the rules" in host.summary
    host.run(60.0)
    assert model.GUARD_TABLE in host.space.tables
