"""Names of the mesh on a host with the real pilot-agent, as the C library asks for them."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.lab.host import PYTHON, Host
from tests.lab.waiting import eventually

from . import istiod as istiods
from .conftest import JOIN_LIMIT_S
from .istiod import Istiod

APPLICATION = 1500
SERVICE, SERVICE_ADDRESS = "reviews.shop.example", "10.96.7.7"
OUTSIDE, OUTSIDE_ADDRESS = "outside.example", "192.0.2.7"

# A name server that knows one address for every name, and says for which it was asked.
NAME_SERVER = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    query, peer = sock.recvfrom(4096)
    end = query.index(0, 12) + 5
    name, kind = query[12:end - 4], query[end - 3]
    answer = b"\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\x3c\\0\\x04" + socket.inet_aton(sys.argv[2])
    head = query[:2] + b"\\x81\\x80\\0\\x01\\0" + bytes([kind == 1]) + bytes(4)
    sock.sendto(head + query[12:end] + (answer if kind == 1 else b""), peer)
    print(peer[0], name, flush=True)
"""


@pytest.fixture
def name_server(istiod: Istiod) -> Iterator[subprocess.Popen[str]]:
    argv = [PYTHON, "-c", NAME_SERVER, istiods.ADDRESS, OUTSIDE_ADDRESS]
    process = istiod.network.popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait(10)


def look_up(host: Host, name: str, *, options: str = "") -> str:
    """What the C library says of a name to an ordinary user of the host."""
    code = f"import socket; print(socket.gethostbyname({name!r}))"
    environment = {"RES_OPTIONS": f"timeout:2 attempts:1 {options}"}
    argv = ["env", *(f"{key}={value}" for key, value in environment.items()), PYTHON, "-c", code]
    done = host.namespace.run(argv, user=APPLICATION)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_a_name_of_the_mesh_and_one_of_the_world_are_resolved(
    host: Host, istiod: Istiod, name_server: subprocess.Popen[str]
) -> None:
    istiod.stop()
    istiod.write_service(SERVICE, SERVICE_ADDRESS, 80)
    istiod.start()
    host.namespace.write_name_servers(istiods.ADDRESS)
    with host.cluster_env.open("a") as cluster:
        cluster.write("ISTIO_META_DNS_CAPTURE='true'\n")
    # Before the host joins, only the world's names are known.
    assert look_up(host, OUTSIDE) == OUTSIDE_ADDRESS
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    eventually(lambda: look_up(host, SERVICE) == SERVICE_ADDRESS, "the mesh's name is known")
    assert look_up(host, SERVICE, options="use-vc") == SERVICE_ADDRESS
    assert look_up(host, OUTSIDE) == OUTSIDE_ADDRESS
    assert host.verb("verify").returncode == 0

    # It is the resolver of the mesh that answers: without it nobody does, and nothing goes around.
    host.kill()
    assert look_up(host, SERVICE).startswith("socket.gaierror")
    assert look_up(host, OUTSIDE).startswith("socket.gaierror")
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    eventually(lambda: look_up(host, SERVICE) == SERVICE_ADDRESS, "known again")
    host.stop()
    assert look_up(host, OUTSIDE) == OUTSIDE_ADDRESS
