"""Queries for names while nobody answers them: refused at once, never let around."""

import pytest

from tests.lab.host import PYTHON
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


@pytest.mark.parametrize("server", [CLUSTER, "::1"])
def test_a_query_is_refused_while_no_resolver_runs(make_host: MakeHost, server: str) -> None:
    host = make_host()
    host.namespace.write_name_servers(CLUSTER, "::1")
    configure(host, REDIRECT_DNS="true")
    assert host.verb("apply").returncode == 0
    asked = host.namespace.run([PYTHON, "-c", ASK, server], user=APPLICATION, check=True)
    assert asked.stdout.strip() == "ConnectionRefusedError"
