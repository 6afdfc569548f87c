"""Listening sockets as the kernel tells them, in namespaces with real ones."""

import contextlib
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from istio_hostagent.host import sockdiag
from tests.lab import groups, netns, waiting
from tests.lab.host import CHECKOUT, PYTHON

USER = 65534


@pytest.fixture
def host() -> Iterator[netns.Namespace]:
    with netns.Namespace("host") as made:
        made.ip("link", "add", "br0", "type", "bridge")
        made.ip("link", "set", "br0", "up")
        made.add_address("br0", "10.1.0.2/24")
        made.add_address("br0", "fd00:1::2/64")
        yield made


@contextlib.contextmanager
def listening(host: netns.Namespace, address: str, port: int) -> Iterator[socket.socket]:
    with host.bind(address, port) as made:
        made.listen()
        yield made


def listeners(host: netns.Namespace) -> list[sockdiag.Listener]:
    return host.inside(sockdiag.probe_listeners)


def test_all_that_listen_are_told_and_nothing_else(host: netns.Namespace) -> None:
    where = [("0.0.0.0", 22), ("10.1.0.2", 2222), ("::", 80), ("fd00:1::2", 8080), ("::1", 9)]
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(listening(host, *each)) for each in where]
        stack.enter_context(host.bind("10.1.0.2", 3333))  # bound, not listening
        stack.enter_context(host.connect("10.1.0.2", 2222))
        found = listeners(host)
        assert sorted((str(each.address), each.port) for each in found) == sorted(where)
        assert {each.inode for each in found} == {os.fstat(s.fileno()).st_ino for s in sockets}
        assert {each.uid for each in found} == {0}
    assert listeners(host) == []


def test_a_socket_that_is_bound_elsewhere_is_not_on_a_port(host: netns.Namespace) -> None:
    """The kernel gives bound ones of every port, whichever is asked for (from 6.8 on)."""
    with host.bind("10.1.0.2", 3333), listening(host, "10.1.0.2", 2222):
        found = host.inside(lambda: sockdiag.find_on_port(2222))
        assert [each.port for each in found] == [2222]


def test_a_socket_may_be_bound_to_an_interface(host: netns.Namespace) -> None:
    with host.bind("0.0.0.0", 2222) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"br0")
        made.listen()
        (found,) = listeners(host)
        assert found.interface == host.inside(lambda: socket.if_nametoindex("br0"))


def test_those_of_another_namespace_are_not_told(host: netns.Namespace) -> None:
    with netns.Namespace("other") as other, listening(other, "0.0.0.0", 22):
        assert listeners(host) == []


def test_the_owner_is_who_made_it(host: netns.Namespace) -> None:
    code = "import socket; s = socket.create_server(('', 8000)); input()"
    host.popen([PYTHON, "-c", code], user=USER, stdin=-1)
    waiting.eventually(lambda: listeners(host) != [], "it listens")
    assert [each.uid for each in listeners(host)] == [USER]


def test_who_has_no_rights_is_told_the_same(host: netns.Namespace) -> None:
    code = "from istio_hostagent.host import sockdiag\nprint(sockdiag.probe_listeners())"
    with listening(host, "0.0.0.0", 22):
        seen = host.python(code, user=USER, env={"PYTHONPATH": str(CHECKOUT)})
        assert seen.strip() == str(listeners(host))


def test_the_tables_in_proc_say_the_same_but_for_control_groups(host: netns.Namespace) -> None:
    where = [("127.0.0.1", 22), ("10.1.0.2", 2222), ("::", 80), ("fd00:1::2", 8080)]
    with contextlib.ExitStack() as stack:
        for each in where:
            stack.enter_context(listening(host, *each))
        stack.enter_context(host.connect("10.1.0.2", 2222))
        told = {each._replace(cgroup=0) for each in listeners(host)}
        assert set(host.inside(lambda: list(sockdiag.read_tables()))) == told
        assert len(told) == len(where)


def test_the_control_group_is_that_in_which_it_was_made(
    host: netns.Namespace, control_group: groups.ControlGroup
) -> None:
    unit = control_group.make("web.service")
    code = "import socket; s = socket.create_server(('', 8000)); input()"
    control_group.start(unit, host.argv([PYTHON, "-c", code]))
    waiting.eventually(lambda: listeners(host) != [], "it listens")
    (found,) = listeners(host)
    assert found.address == ip_address("0.0.0.0")
    assert found.cgroup == unit.stat().st_ino
