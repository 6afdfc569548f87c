"""Who has a socket, asked with as few rights as the agent's unit has."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from istio_hostagent.host.answers import formats, port_owner
from tests.lab.host import CHECKOUT, PYTHON

NOBODY = 65534
LISTENING = """
import os, socket
made = socket.create_server(("127.0.0.1", 0))
print(os.fstat(made.fileno()).st_ino, flush=True)
input()
"""
FEW_RIGHTS = "-all,+setuid,+setgid,+chown,+kill,+net_admin,+net_raw"


def ask(inode: int, uid: int) -> port_owner.PortOwner:
    """Ask the worker."""
    request = json.dumps({"uid": uid, "inode": inode})
    few = ["setpriv", f"--bounding-set={FEW_RIGHTS}", f"--inh-caps={FEW_RIGHTS}"]
    worker = [PYTHON, "-m", "istio_hostagent.workers.port_owner"]
    done = subprocess.run(
        [*few, *worker],
        input=request,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = formats.read(formats.find("port_owner"), done.stdout.encode(), request)
    assert isinstance(found, port_owner.PortOwner)
    return found


@pytest.fixture
def listener() -> Iterator[tuple[int, int]]:
    """Pid of a process of nobody, and the inode of its socket."""
    if os.geteuid():
        pytest.skip("starts processes of others")
    switch = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    with subprocess.Popen(
        [*switch, PYTHON, "-c", LISTENING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


def test_a_process_of_another_user_is_named(listener: tuple[int, int]) -> None:
    pid, inode = listener
    assert ask(inode, NOBODY) == port_owner.PortOwner("nobody", pid, "python3")


def test_a_socket_that_is_gone_and_a_user_without_a_name(listener: tuple[int, int]) -> None:
    with socket.socket() as made:
        inode = os.fstat(made.fileno()).st_ino
    assert ask(inode, 4_000_000) == port_owner.PortOwner("", 0, "")
