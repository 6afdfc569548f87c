"""Which listening sockets count as sshd's, on made-up control groups and processes."""

import itertools
import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from istio_hostagent.host import sshd
from istio_hostagent.host.sockdiag import Listener

# Above every number that a process can have, so that none of this machine is asked about.
_pids = itertools.count(5_000_000)
PORT = 2222
INODE = 77
LISTENING = "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"


class Machine:
    """A directory for control groups and one for processes."""

    def __init__(self, directory: Path, unified: str = "") -> None:
        self.places = sshd.Places(str(directory / "cgroup"), str(directory / "proc"))
        self.root = Path(self.places.cgroups) / unified
        self.root.mkdir(parents=True)
        (self.root / "cgroup.controllers").touch()
        (self.root / "cgroup.procs").touch()
        Path(self.places.processes).mkdir()

    def group(self, name: str) -> Path:
        made = self.root / name
        made.mkdir(parents=True, exist_ok=True)
        (made / "cgroup.procs").touch()
        return made

    def process(
        self,
        group: Path | None,
        name: str,
        title: str = "",
        sockets: Sequence[int] | None = (INODE,),
    ) -> None:
        """`sockets`: None: it may not be looked into."""
        pid = next(_pids)
        made = Path(self.places.processes) / str(pid)
        (made / "fd").mkdir(parents=True)
        (made / "comm").write_text(f"{name}\n")
        (made / "cmdline").write_text(f"{title or name}\0-D\0")
        for number, inode in enumerate(sockets or ()):
            (made / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
        (made / "fd" / "9").symlink_to("/dev/null")
        if sockets is None:
            # Even root is refused what it can only list.
            (made / "fd").rename(made / "not-shown")
            (made / "fd").touch()
        if group is not None:
            with (group / "cgroup.procs").open("a") as listing:
                listing.write(f"{pid}\n")

    def ports(self, *listeners: Listener) -> set[int]:
        return sshd.find_ports(listeners, self.places)

    def is_sshd(self, group: Path | None, uid: int = 0, address: str = "0.0.0.0") -> bool:
        number = group.stat().st_ino if group is not None else 1 << 40
        listener = Listener(ip_address(address), PORT, 0, uid, INODE, number)
        return self.ports(listener) == {PORT}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("unit", "is_sshd"),
    [
        ("system.slice/ssh.service", True),
        ("system.slice/ssh.socket", True),
        ("system.slice/sshd.service", True),
        ("system.slice/sshd.socket", True),
        ("system.slice/sshd-admin.socket", True),
        ("system.slice/system-sshd.slice/sshd@2222.service", True),
        ("system.slice/ssh.service/below", True),
        ("system.slice/dropbear.service", True),
        ("system.slice/dropbear.socket", True),
        ("system.slice/nginx.service", False),
        ("system.slice/cockpit.socket", False),
        ("system.slice/sshguard.service", False),
        ("system.slice/ssh-agent.service", False),
        ("ssh.slice/nginx.service", False),
        ("system.slice/ssh", False),
    ],
)
def test_the_unit_says_who_listens(machine: Machine, unit: str, is_sshd: bool) -> None:
    assert machine.is_sshd(machine.group(unit)) is is_sshd


@pytest.mark.parametrize("place", ["", "unified"])
def test_groups_may_stand_beside_those_of_version_1(tmp_path: Path, place: str) -> None:
    machine = Machine(tmp_path, place)
    machine.process(machine.group("web.service"), "nginx")
    assert not machine.is_sshd(machine.group("web.service"))
    assert machine.is_sshd(machine.group("a/b/c/d/ssh.service"))


@pytest.mark.parametrize(
    ("name", "title", "sockets", "is_sshd"),
    [
        pytest.param("sshd", LISTENING, None, True, id="sshd-out-of-sight"),
        pytest.param("sshd", LISTENING, (INODE,), True, id="sshd"),
        pytest.param("sshd", LISTENING, (5,), False, id="sshd-with-another-socket"),
        pytest.param("sshd", "/usr/sbin/sshd", None, True, id="an-older-sshd"),
        pytest.param("sshd", "sshd: root@pts/0", None, False, id="sshd-that-serves-a-user"),
        pytest.param("sshd-session", "sshd-session: root@pts/0", None, False, id="a-newer-one"),
        pytest.param("dropbear", "", None, True, id="dropbear"),
        pytest.param("systemd", "/sbin/init", None, True, id="systemd-for-a-socket-unit"),
        pytest.param("init", "/sbin/init", None, True, id="the-same-by-its-other-name"),
        pytest.param("nginx", "", None, False, id="another-server"),
    ],
)
@pytest.mark.parametrize("group", ["mine.service", "init.scope", "."])
def test_in_other_groups_the_process_says_it(
    machine: Machine,
    group: str,
    name: str,
    title: str,
    sockets: Sequence[int] | None,
    is_sshd: bool,
) -> None:
    made = machine.group(group)
    machine.process(made, "bash", sockets=None)
    machine.process(made, name, title, sockets)
    assert machine.is_sshd(made) is is_sshd


@pytest.mark.parametrize(
    ("name", "sockets", "is_sshd"),
    [
        pytest.param("nginx", (INODE,), False, id="another-server"),
        pytest.param("nginx", (5,), True, id="nobody-has-it"),
        pytest.param("nginx", None, True, id="out-of-sight"),
        pytest.param("sshd", (INODE,), True, id="sshd"),
        pytest.param("sshd", None, True, id="sshd-out-of-sight"),
    ],
)
def test_without_a_group_only_who_is_seen_to_have_it_is_believed(
    machine: Machine, name: str, sockets: Sequence[int] | None, is_sshd: bool
) -> None:
    machine.process(None, name, sockets=sockets)
    assert machine.is_sshd(None) is is_sshd


def test_a_socket_that_systemd_shares_with_a_server_is_in_doubt(machine: Machine) -> None:
    for name in ("nginx", "systemd", "nginx"):
        machine.process(None, name)
    assert machine.is_sshd(None)


def test_where_there_are_no_groups_processes_are_looked_at(tmp_path: Path) -> None:
    """The numbers of other directories mean nothing."""
    machine = Machine(tmp_path)
    (machine.root / "cgroup.controllers").unlink()
    machine.process(machine.group("ssh.service"), "nginx")
    assert not machine.is_sshd(machine.group("ssh.service"))
    machine = Machine(tmp_path / "other")
    (machine.root / "cgroup.controllers").unlink()
    assert machine.is_sshd(machine.group("nginx.service"))


def test_processes_out_of_sight_are_in_doubt(machine: Machine) -> None:
    group = machine.group("container.scope")
    (group / "cgroup.procs").write_text("0\n")  # of another PID namespace
    assert machine.is_sshd(group)
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n")  # hidden by hidepid=, proc(5)
    assert machine.is_sshd(group)
    (group / "cgroup.procs").write_text(f"{next(_pids)}\n")  # ended at this moment
    assert not machine.is_sshd(group)
    (group / "cgroup.procs").unlink()
    assert machine.is_sshd(group)


def test_only_what_root_listens_on_counts(machine: Machine) -> None:
    """Else a user's own ssh.service would decide what is captured."""
    group = machine.group("user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service")
    assert not machine.is_sshd(group, uid=1000)
    machine.process(None, "sshd", LISTENING)
    assert not machine.is_sshd(None, uid=1000)


@pytest.mark.parametrize(
    ("address", "is_sshd"),
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::", True),
        ("10.1.0.2", True),
        ("fd00:1::2", True),
    ],
)
def test_where_nobody_else_gets_nobody_is_locked_out(
    machine: Machine, address: str, is_sshd: bool
) -> None:
    assert machine.is_sshd(machine.group("ssh.service"), address=address) is is_sshd


def test_several_are_told_apart(machine: Machine) -> None:
    ssh, web = machine.group("system.slice/ssh.service"), machine.group("system.slice/web.service")
    machine.process(web, "nginx")
    every = [("0.0.0.0", 2222, ssh), ("::", 2222, ssh), ("::", 2200, ssh), ("0.0.0.0", 80, web)]
    listeners = [
        Listener(ip_address(address), port, 0, 0, port, group.stat().st_ino)
        for address, port, group in every
    ]
    assert machine.ports(*listeners) == {2222, 2200}


def test_a_machine_of_thousands_of_groups_is_in_doubt(machine: Machine) -> None:
    for number in range(4200):
        (machine.root / f"a{number}" / "b").mkdir(parents=True)
    group = machine.group("a7/b/c/d/web.service")
    machine.process(group, "nginx", sockets=())
    assert machine.is_sshd(group)
    assert not machine.is_sshd(machine.group("web.service"))
