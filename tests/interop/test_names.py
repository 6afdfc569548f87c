"""Names of the mesh on a host with the real pilot-agent, or with Envoy alone, as programs ask."""

import os
import signal
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


def run_envoy_alone(host: Host) -> None:
    """Let it do without pilot-agent, on files that istioctl has written."""
    own = host.hostagent_env.read_text()
    host.hostagent_env.write_text(own.replace("PROXY=pilot-agent", "PROXY=envoy"))
    with host.cluster_env.open("a") as cluster:
        cluster.write("ISTIO_META_WORKLOAD_NAME='web'\n")


@pytest.mark.parametrize("is_alone", [False, True], ids=["pilot-agent", "envoy"])
def test_a_name_of_the_mesh_and_one_of_the_world_are_resolved(
    host: Host, istiod: Istiod, name_server: subprocess.Popen[str], is_alone: bool
) -> None:
    if is_alone:
        run_envoy_alone(host)
    istiod.stop()
    istiod.write_service(SERVICE, SERVICE_ADDRESS, 80)
    istiod.start()
    host.namespace.write_name_servers(istiods.ADDRESS)
    with host.cluster_env.open("a") as cluster:
        cluster.write("ISTIO_META_DNS_CAPTURE='true'\n")
    # Before the host joins, only the world's names are known.
    eventually(lambda: look_up(host, OUTSIDE) == OUTSIDE_ADDRESS, "the world's name is known")
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    eventually(lambda: look_up(host, SERVICE) == SERVICE_ADDRESS, "the mesh's name is known")
    eventually(
        lambda: look_up(host, SERVICE, options="use-vc") == SERVICE_ADDRESS, "by TCP as well"
    )
    eventually(lambda: look_up(host, OUTSIDE) == OUTSIDE_ADDRESS, "the world's name is known")
    eventually(lambda: host.verb("verify", is_checked=False).returncode == 0, "verified")

    # It is the resolver of the mesh that answers: without it nobody does, and nothing goes around.
    host.kill()
    eventually(lambda: look_up(host, SERVICE).startswith("socket.gaierror"), "nobody answers")
    assert look_up(host, OUTSIDE).startswith("socket.gaierror")
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    eventually(lambda: look_up(host, SERVICE) == SERVICE_ADDRESS, "known again")
    host.stop()
    eventually(lambda: look_up(host, OUTSIDE) == OUTSIDE_ADDRESS, "the world's name is known")


def test_a_resolver_beside_envoy_keeps_names_and_follows_the_servers_of_this_host(
    host: Host, istiod: Istiod, name_server: subprocess.Popen[str]
) -> None:
    run_envoy_alone(host)
    istiod.stop()
    istiod.write_service(SERVICE, SERVICE_ADDRESS, 80)
    istiod.start()
    # Nobody answers at the first one.
    host.namespace.write_name_servers("192.0.2.53", istiods.ADDRESS)
    with host.cluster_env.open("a") as cluster:
        cluster.write("ISTIO_META_DNS_CAPTURE=true\n")
    host.start()
    host.verb("wait", "--timeout", str(JOIN_LIMIT_S))
    eventually(lambda: look_up(host, SERVICE) == SERVICE_ADDRESS, "the mesh's name is known")
    resolver = host.status()["resolver"]
    assert resolver["state"] == "running"
    eventually(
        lambda: look_up(host, OUTSIDE, options="timeout:5") == OUTSIDE_ADDRESS, "the second server"
    )
    host.namespace.write_name_servers(istiods.ADDRESS)
    eventually(lambda: look_up(host, OUTSIDE) == OUTSIDE_ADDRESS, "the world's name is known")

    # Without istiod names stay; one that it has learned meanwhile comes with it.
    istiod.stop()
    eventually(lambda: look_up(host, SERVICE) == SERVICE_ADDRESS, "without istiod as well")
    istiod.write_service("ratings.shop.example", "10.96.7.9", 80)
    istiod.start()
    eventually(lambda: look_up(host, "ratings.shop.example") == "10.96.7.9", "the new name")

    # One that is killed is started again, and until then nothing goes around.
    os.kill(resolver["pid"], signal.SIGKILL)
    eventually(
        lambda: host.status()["resolver"]["pid"] not in (None, resolver["pid"]), "another one"
    )
    eventually(lambda: look_up(host, SERVICE) == SERVICE_ADDRESS, "known again")
    eventually(lambda: bool(host.status()["in_mesh"]), "in the mesh")
    assert host.status()["proxy"]["starts"] == 1
