"""What is promised of the units of another Istio agent: of the kernel's groups, and in memory."""

from pathlib import Path

from istio_hostagent.host import ports, predecessor
from tests.fakes.machine import FakePredecessors

UNITS = ("istio.service", "istio-auth-node-agent.service")


def put(root: Path, unit: str, *, is_populated: bool) -> None:
    """Make a group as the kernel shows it."""
    group = root / "system.slice" / unit
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.events").write_text(f"populated {int(is_populated)}\nfrozen 0\n")


def test_a_group_with_a_process_is_a_unit_that_runs(tmp_path: Path) -> None:
    assert predecessor.find_running(str(tmp_path)) == ()
    put(tmp_path, UNITS[1], is_populated=True)
    put(tmp_path, UNITS[0], is_populated=False)
    put(tmp_path, "istio-hostagent.service", is_populated=True)
    assert predecessor.find_running(str(tmp_path)) == UNITS[1:]


def test_an_agent_that_is_no_unit_has_no_predecessor() -> None:
    real: ports.Predecessors = predecessor.Predecessors(predecessor.find_own_unit())
    for each in (real, FakePredecessors()):
        assert each.units == UNITS
        assert each.find_running() == ()
        assert not each.is_held()
