"""Queries for names while nobody answers them: refused at once, never let around."""

import pytest

from tests.lab.host import CHECKOUT, PYTHON
from tests.netns.conftest import CLUSTER, MakeHost, configure

APPLICATION = 1500
# Asks a server by UDP, and says what came of it.
ASK = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    sock.settimeout(5)
    sock.connect((sys.argv[1], 53))
    sock.send(bytes(12))
    try:
        sock.recv(100)
    except OSError as error:
        print(type(error).__name__)
"""

AGAIN = """
import ipaddress
from istio_hostagent.config import model
from istio_hostagent.host import facts
server = ipaddress.ip_address("10.1.0.53")
known = model.HostFacts(998, 997, users=(("a", 1, 1),), name_servers=(server,))
found = facts.read_files_again(known)
print(*found.name_servers, ("root", 0, 0) in found.users)
"""


@pytest.mark.parametrize("written", [(), ("10.1.0.54",)])
def test_servers_are_forgotten_only_for_others(
    make_host: MakeHost, written: tuple[str, ...]
) -> None:
    space = make_host().namespace
    space.write_name_servers(*written)
    said = space.run([PYTHON, "-c", AGAIN], cwd=CHECKOUT, check=True)
    assert said.stdout.split() == [*(written or ("10.1.0.53",)), "True"]


@pytest.mark.parametrize("server", [CLUSTER, "::1"])
def test_a_query_is_refused_while_no_resolver_runs(make_host: MakeHost, server: str) -> None:
    host = make_host()
    host.namespace.write_name_servers(CLUSTER, "::1")
    configure(host, REDIRECT_DNS="true")
    assert host.verb("apply").returncode == 0
    asked = host.namespace.run([PYTHON, "-c", ASK, server], user=APPLICATION, check=True)
    assert asked.stdout.strip() == "ConnectionRefusedError"
