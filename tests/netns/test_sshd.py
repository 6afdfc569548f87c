"""Where sshd listens, with real sockets in real control groups.

Real ssh daemons with real units are in `tests/booted`.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from istio_hostagent.host import facts
from tests.lab import groups, netns
from tests.lab.host import CHECKOUT, PYTHON
from tests.lab.waiting import eventually

LISTENING = "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"
SERVING = "sshd: root@pts/0"
# Takes the name of a process and where to listen; an empty line ends it, another closes a socket.
SERVER = """
import socket, sys
name, *where = sys.argv[1:]
open("/proc/self/comm", "w").write(name)
made = []
for host, port in zip(where[::2], where[1::2]):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made.append(socket.create_server((host, int(port)), family=family))
print("listening", file=sys.stderr, flush=True)
input()
"""
# The capabilities that the unit leaves to root: other processes of root have more.
UNIT = "-all,+net_admin,+net_raw,+setuid,+setgid,+kill,+chown"
ASK = "from istio_hostagent.host import facts; print(*facts.probe_ssh_ports())"


@pytest.fixture
def host() -> Iterator[netns.Namespace]:
    with netns.Namespace("host") as made:
        made.ip("link", "add", "br0", "type", "bridge")
        made.ip("link", "set", "br0", "up")
        made.add_address("br0", "10.1.0.2/24")
        yield made


def serve(
    host: netns.Namespace,
    group: groups.ControlGroup,
    unit: Path,
    name: str,
    *where: tuple[str, int],
    title: str = "",
    user: int | None = None,
) -> subprocess.Popen[str]:
    """Start a server of this name in a unit's group, and wait until it listens."""
    words = [str(word) for each in where for word in each]
    rename = ["bash", "-c", 'exec -a "$0" "$@"', title or name]
    command = [*rename, PYTHON, "-c", SERVER, name, *words]
    before = len(listening(host))
    process = group.start(unit, host.argv(command, user=user))
    eventually(lambda: len(listening(host)) == before + len(where), f"{name} listens")
    return process


def listening(host: netns.Namespace) -> list[str]:
    return host.run(["ss", "-Hltn"], check=True).stdout.splitlines()


def ports(host: netns.Namespace, *, is_confined: bool) -> list[int]:
    """What is found by root, or by root with the rights of the unit."""
    if not is_confined:
        return list(host.inside(facts.probe_ssh_ports))
    # Not with ip(8), which hides the control groups.
    enter = ["nsenter", f"--net={host.path}", "setpriv", f"--bounding-set={UNIT}"]
    done = subprocess.run(
        [*enter, "--inh-caps=-all", PYTHON, "-c", ASK],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


@pytest.fixture(params=[False, True], ids=["root", "unit"])
def is_confined(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_22_is_left_alone_where_nobody_listens(host: netns.Namespace, is_confined: bool) -> None:
    assert ports(host, is_confined=is_confined) == [22]


def test_the_ports_of_sshds_units_are_found(
    host: netns.Namespace, control_group: groups.ControlGroup, is_confined: bool
) -> None:
    service, unit = (
        control_group.make("ssh.service"),
        control_group.make("system.slice/ssh.socket"),
    )
    serve(host, control_group, service, "sshd", ("0.0.0.0", 2222), ("::", 2200), title=LISTENING)
    serve(host, control_group, unit, "systemd", ("10.1.0.2", 2022))
    web = control_group.make("system.slice/nginx.service")
    serve(host, control_group, web, "nginx", ("0.0.0.0", 80), ("::", 443))
    assert ports(host, is_confined=is_confined) == [22, 2022, 2200, 2222]


def test_an_sshd_of_another_unit_is_found(
    host: netns.Namespace, control_group: groups.ControlGroup, is_confined: bool
) -> None:
    admin = control_group.make("admin-access.service")
    serve(host, control_group, admin, "sshd", ("0.0.0.0", 2222), title=LISTENING)
    assert ports(host, is_confined=is_confined) == [22, 2222]


def test_what_root_runs_in_a_session_is_not_sshds(
    host: netns.Namespace, control_group: groups.ControlGroup, is_confined: bool
) -> None:
    """In the session's group is the sshd that serves it, and what it listens on for ssh -R."""
    session = control_group.make("user.slice/user-0.slice/session-3.scope")
    serve(host, control_group, session, "sshd", ("10.1.0.2", 9000), title=SERVING)
    serve(host, control_group, session, "python3", ("0.0.0.0", 8000))
    assert ports(host, is_confined=is_confined) == [22]


def test_what_a_user_calls_sshd_is_not(
    host: netns.Namespace, control_group: groups.ControlGroup, is_confined: bool
) -> None:
    mine = control_group.make("user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service")
    serve(host, control_group, mine, "sshd", ("0.0.0.0", 8080), title=LISTENING, user=65534)
    assert ports(host, is_confined=is_confined) == [22]


@pytest.mark.parametrize("name", ["nginx", "sshd"])
def test_a_socket_that_outlived_its_group_is_in_doubt(
    host: netns.Namespace, control_group: groups.ControlGroup, is_confined: bool, name: str
) -> None:
    gone = control_group.make("gone.service")
    process = serve(host, control_group, gone, name, ("0.0.0.0", 8080))
    elsewhere = control_group.make("elsewhere.service")
    (elsewhere / "cgroup.procs").write_text(str(process.pid))
    gone.rmdir()
    is_sshd = is_confined or name == "sshd"
    assert ports(host, is_confined=is_confined) == ([22, 8080] if is_sshd else [22])


def test_an_sshd_of_another_namespace_is_another_hosts(
    host: netns.Namespace, control_group: groups.ControlGroup, is_confined: bool
) -> None:
    service = control_group.make("ssh.service")
    with netns.Namespace("other") as other:
        serve(other, control_group, service, "sshd", ("0.0.0.0", 2222), title=LISTENING)
        assert ports(host, is_confined=is_confined) == [22]
        assert ports(other, is_confined=is_confined) == [22, 2222]
