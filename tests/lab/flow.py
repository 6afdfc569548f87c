"""New connections of an ordinary user at a rate, both families, while something happens to rules.

What becomes of them is counted by who knows: each client tells how many it has made and which were
refused or got no answer; a table of the test's own, behind everything, counts what leaves the host
towards captured destinations and is not the proxy's. On a busy machine there are fewer, and none of
them may go around all the same.
"""

import json
import subprocess
from typing import Any, NamedTuple, Self

from tests.lab import netns
from tests.lab.host import PYTHON, proxy_user

RATE = 2000  # of both families together
TABLE = "watcher"
CAPTURED_V6 = "fd00:10::/64"
_CAPTURED_V4 = "10.96.0.0/12"
_NOBODY = 65534
_END_S = 20.0
_WATCH = """
table inet {table} {{
  chain leaving {{
    type filter hook postrouting priority 300; policy accept;
    oifname "eth0" tcp flags & (syn|ack) == syn meta skuid != {uid} ip daddr {v4} counter
    oifname "eth0" tcp flags & (syn|ack) == syn meta skuid != {uid} ip6 daddr {v6} counter
  }}
}}
"""
# Arguments: a pattern of destinations, and how many a second. Until its standard input ends.
_CLIENT = """
import json, select, socket, struct, sys, time
pattern, rate = sys.argv[1], float(sys.argv[2])
family = socket.AF_INET6 if ":" in pattern else socket.AF_INET
reset = struct.pack("ii", 1, 0)  # closed with a reset: no port stays behind
made, failures, slowest_s = 0, [], 0.0
print("begun", flush=True)
began = time.monotonic()
while True:
    ahead_s = began + made / rate - time.monotonic()
    if select.select([sys.stdin], [], [], max(ahead_s, 0.0))[0]:
        break
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        sock.settimeout(5.0)
        at = time.monotonic()
        number = sock.connect_ex((pattern % (made >> 8 & 255, made & 255), 80))
        slowest_s = max(slowest_s, time.monotonic() - at)
        made += 1
        if number:
            failures.append(number)
seconds = time.monotonic() - began
told = {"made": made, "seconds": seconds, "failures": failures, "slowest_s": slowest_s}
print(json.dumps(told), flush=True)
"""
# Who takes what is captured, in the place of a proxy.
PROXY = """
import select, socket
def capture(port):
    made = socket.socket(socket.AF_INET6)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("::", port))
    made.listen(4096)
    return made
captured = [capture(port) for port in (15001, 15006)]
print("there", flush=True)
while True:
    for each in select.select(captured, [], [])[0]:
        each.accept()[0].close()
"""


class Tally(NamedTuple):
    """What became of all connections: `around` the proxy, or refused and unanswered (errno)."""

    made: int
    seconds: float
    around: int
    failures: tuple[int, ...]
    slowest_s: float

    def __str__(self) -> str:
        return (
            f"{self.made} connections at {self.made / self.seconds:.0f}/s:"
            f" {self.around} around, {len(self.failures)} refused or unanswered,"
            f" the slowest {self.slowest_s * 1000:.0f} ms"
        )

    @property
    def is_clean(self) -> bool:
        return not self.around and not self.failures


class Flow:
    """Connections from a host to what is captured there. A context manager.

    Inside, both families flow. `has_proxy`: something takes the place of a proxy that listens.
    """

    def __init__(
        self, host: netns.Namespace, *, has_proxy: bool, has_v6: bool = True, rate: float = RATE
    ) -> None:
        self._host = host
        self._has_proxy = has_proxy
        self._patterns = ["10.96.%d.%d", *(["fd00:10::%x:%x"] if has_v6 else [])]
        self._rate = rate / len(self._patterns)
        self._started: list[subprocess.Popen[str]] = []
        self._clients: list[subprocess.Popen[str]] = []
        self.tally: Tally | None = None

    def __enter__(self) -> Self:
        uid, _ = proxy_user()
        watch = _WATCH.format(table=TABLE, uid=uid, v4=_CAPTURED_V4, v6=CAPTURED_V6)
        self._host.run(["nft", "-f", "-"], stdin=watch, check=True)
        try:
            if self._has_proxy:
                self._start(uid, "there", PROXY)
            for pattern in self._patterns:
                words = (_CLIENT, pattern, str(self._rate))
                self._clients.append(self._start(_NOBODY, "begun", *words))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            self.tally = self._count()
        finally:
            self._end()

    def _start(self, user: int, word: str, *words: str) -> subprocess.Popen[str]:
        argv = [PYTHON, "-I", "-S", "-c", *words]
        made = self._host.popen(argv, user=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._started.append(made)
        assert made.stdout is not None
        said = made.stdout.readline()
        assert said == f"{word}\n", said
        return made

    def _count(self) -> Tally:
        told: list[dict[str, Any]] = []
        for client in self._clients:
            assert client.stdin is not None and client.stdout is not None
            client.stdin.close()
        for client in self._clients:
            assert client.stdout is not None
            told.append(json.loads(client.stdout.readline()))
            client.wait(_END_S)
        listing = self._host.run(["nft", "list", "table", "inet", TABLE], check=True).stdout
        around = [int(part.split()[0]) for part in listing.split("counter packets ")[1:]]
        return Tally(
            sum(each["made"] for each in told),
            max(each["seconds"] for each in told),
            sum(around),
            tuple(number for each in told for number in each["failures"]),
            max(each["slowest_s"] for each in told),
        )

    def _end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(_END_S)
        self._host.run(["nft", "delete", "table", "inet", TABLE])
