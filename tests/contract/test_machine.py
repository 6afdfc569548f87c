"""What is promised of the facts of a host that come and go: of this one, and of one in memory."""

from ipaddress import ip_address

import pytest

from istio_hostagent.config import model
from istio_hostagent.host import facts, ports
from tests.fakes.machine import FakeMachine

KNOWN = model.HostFacts(998, 997, ssh_ports=(2222,), hostname="known", state_dir="/known")


class MachineContract:
    def test_what_never_changes_is_kept(self, machine: ports.Machine) -> None:
        found = machine.look_again(KNOWN)
        assert (
            found._replace(
                addresses=KNOWN.addresses,
                primary_address=KNOWN.primary_address,
                has_ipv6=KNOWN.has_ipv6,
                knows_ipv6=KNOWN.knows_ipv6,
                filtered_bridges=(),
            )
            == KNOWN
        )

    def test_the_primary_address_is_one_of_its_own(self, machine: ports.Machine) -> None:
        found = machine.look_again(KNOWN)
        assert found.primary_address in (None, *found.addresses)
        assert (found.primary_address is None) is (not found.addresses)

    def test_files_say_who_there_is_and_nothing_else(self, machine: ports.Machine) -> None:
        found = machine.read_files_again(KNOWN)
        assert ("root", 0, 0) in found.users
        assert ("root", 0) in found.groups
        others = found._replace(users=(), groups=(), name_servers=(), asks_resolved=False)
        others = others._replace(filtered_bridges=())  # what this machine has of them
        assert others == KNOWN

    def test_port_22_is_always_left_to_sshd(self, machine: ports.Machine) -> None:
        assert 22 in machine.probe_ssh_ports()

    def test_an_address_stands_for_itself_and_an_unknown_name_for_none(
        self, machine: ports.Machine
    ) -> None:
        assert machine.find_address("10.1.2.3") == ip_address("10.1.2.3")
        assert machine.find_address("no-such-host.invalid") is None


class TestFacts(MachineContract):
    @pytest.fixture
    def machine(self) -> ports.Machine:
        return facts


class TestFakeMachine(MachineContract):
    @pytest.fixture
    def machine(self) -> ports.Machine:
        now = KNOWN._replace(addresses=(ip_address("10.1.0.2"),), ssh_ports=(22,))
        return FakeMachine(now._replace(users=(("root", 0, 0),), groups=(("root", 0),)))
