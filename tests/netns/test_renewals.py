"""Many renewals by a real agent and real workers, of which some fail: what they leave behind."""

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.demo.ca_policy import Mode
from tests.demo.ca_server import DemoAuthority
from tests.lab import soak
from tests.lab.host import Host
from tests.lab.waiting import eventually
from tests.netns.conftest import MakeHost, join

# Before the first count everything has happened once.
WARM_UP = 6
# In the second half: what the allocator breaks up grows for some 400 renewals, by 1.4 MB, and then
# no more (measured over 800; what Python has made does not grow at all).
MOST_KB = 512
FAILURES = (Mode.REFUSE, Mode.INTERNAL, Mode.GARBAGE, Mode.WRONG_KEY, Mode.HALF_FRAME)


def is_still(host: Host, pid: int) -> bool:
    """Whether a second passes in which nothing is begun or ended."""
    seen = (descriptors(pid), files(host), children(pid))
    time.sleep(1)
    return len(seen[2]) == 1 and seen == (descriptors(pid), files(host), children(pid))


def memory_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Private_Dirty: +(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def descriptors(pid: int) -> list[str]:
    found = []
    for each in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(re.sub(r"\d+", "N", os.readlink(f"/proc/{pid}/fd/{each}")))
        except OSError:
            continue
    return sorted(found)


def files(host: Host) -> list[str]:
    """Everything in its directories, whatever the number of a generation is."""
    places = (host.state, host.runtime, host.certs)
    paths = (path for place in places for path in place.rglob("*"))
    return sorted(re.sub(r"\d{6}", "N", str(path)) for path in paths)


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.soak
@pytest.mark.envoy
def test_renewals_leave_nothing_behind(
    make_host: MakeHost,
    envoy: str,
    authority: DemoAuthority,
    record_property: Callable[[str, object], None],
) -> None:
    host = make_host(envoy=envoy)
    join(host)
    assert host.agent is not None
    pid, chance = host.agent.pid, random.Random(20261130)
    before: tuple[list[str], list[str], list[str]] | None = None
    memory = failed = 0
    count = soak.times(20, 600)
    for number in range(WARM_UP + count):
        is_failing = chance.random() < 0.3
        authority.mode = chance.choice(FAILURES) if is_failing else Mode.OK
        done = host.verb("renew", is_checked=False)
        assert (done.returncode == 0) != is_failing, done.stdout + done.stderr
        failed += is_failing
        if number % 100 == 99:
            # Away until what is held has ended, and what is kept behind it, and back.
            authority.life_s, authority.mode = 4.0, Mode.OK
            for _ in range(3):
                host.verb("renew", is_checked=False)
            authority.stop()
            eventually(lambda: not host.status()["in_mesh"], "it has lapsed")
            authority.life_s = None
            authority.start()
            eventually(lambda: bool(host.status()["in_mesh"]), "it is back", within_s=120)
        if number == WARM_UP - 1:
            authority.mode = Mode.OK
            host.verb("renew")
            eventually(lambda: is_still(host, pid), "nothing is under way")
            before = (descriptors(pid), files(host), children(pid))
        if number == WARM_UP + count // 2:
            memory = memory_kb(pid)
    authority.mode = Mode.OK
    host.verb("renew")
    # What a worker or a question to the proxy has open goes within its own time.
    eventually(
        lambda: (descriptors(pid), files(host), children(pid)) == before,
        "descriptors, files and processes are those of before",
    )
    assert host.agent.poll() is None
    grown = memory_kb(pid) - memory
    record_property(
        soak.FIGURE, f"{count} renewals, {failed} failed: {grown} kB more in the second half"
    )
    assert grown <= MOST_KB
    assert host.status()["in_mesh"]
