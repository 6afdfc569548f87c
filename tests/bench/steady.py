"""Agents that have been in the mesh for a while: memory, repair, verification, wake-ups.

Several hosts, so that flushes can follow one another without any agent taking them for a fight
(it waits longer after more than eight repairs in ten seconds). A flush is one transaction of this
process that deletes our tables, as `nft flush ruleset` does; it begins when it is sent. The rules
are back when the kernel announces the agent's transaction, proven again when the agent says so.
"""

import contextlib
import os
import select
import time
from collections.abc import Iterator, Sequence

from istio_hostagent.host import changes
from istio_hostagent.host.nfnetlink import connection, messages
from istio_hostagent.redirect import model

from . import agentlog, budgets, cost, files, rows, site
from .host import NO_PROXY, PROVEN, WAITING, Host, Proxy, join

HOSTS = 3
FLUSHES = 51
PAUSE_S = 0.45  # between two flushes: each host repairs less than eight times in ten seconds
VERIFY_ROUNDS = 3
LARGE_FLUSHES = 3
# Whole heartbeats of the agent (60 s): of a part there would be one or none.
IDLE_S, LONG_IDLE_S = 60.0, 120.0
SETTLE_S = 3.0
KEYS = (
    "flush",
    "flush-rules",
    "verify-asked",
    "rss",
    "rss-large",
    "rss-all",
    "pss",
    "uss",
    "wakeups-waiting",
    "wakeups-missing",
    "wakeups",
)


def measure(here: site.Site, *, is_long: bool) -> rows.Outcomes:
    """All rows of KEYS. Raises NotMeasured, LabError."""
    with contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(Host(here)) for _ in range(HOSTS)]
        large = stack.enter_context(Host(here, keys=files.large()))
        largest = stack.enter_context(Host(here, keys=files.large(files.LARGEST_COUNT)))
        waiting = [stack.enter_context(Host(here, keys={})) for _ in range(HOSTS)]
        missing = [stack.enter_context(Host(here)) for _ in range(HOSTS)]
        join([*hosts, large, largest], Proxy.ENVOY)
        for idle, proxy, text in (
            (waiting, Proxy.ENVOY, WAITING),
            (missing, Proxy.NONE, NO_PROXY),
        ):
            for host in idle:
                host.start(proxy)
                host.wait_for(text)
        time.sleep(SETTLE_S)
        fresh = [rows.Samples(_rss(each)).median for each in (hosts, [large], [largest])]
        verify = _verify(hosts)
        rules, proven = _flushes(hosts)
        settled = _rss([large])  # before its repairs: the other one has none
        _flushes([large], LARGE_FLUSHES)
        time.sleep(SETTLE_S)
        idle_s = LONG_IDLE_S if is_long else IDLE_S
        groups = {"wakeups-waiting": waiting, "wakeups-missing": missing, "wakeups": hosts}
        wakeups = _idle(groups, idle_s)
        memory = [cost.memory_mb(host.pid) for host in hosts]
        of_large, of_largest = _rss([large]), _rss([largest])
        bare = _bare_memory()
    middle = [rows.Samples(tuple(found)).median for found in (rules, proven)]
    note = (
        f"{FLUSHES} flushes, so p99 is the slowest, from the flush being sent; medians:"
        f" rules back {middle[0]:.1f} ms, proven again {middle[1]:.1f} ms"
    )
    after = "{} agents after {} repairs; freshly joined {:.1f} MB"
    of_python = {"a bare python3": [bare[0]]}
    return {
        "flush": rows.make_result(proven, notes=(note,)),
        "flush-rules": rows.make_result(rules),
        "verify-asked": verify,
        "rss": rows.make_result(
            [found[0] for found in memory], of_python, [after.format(HOSTS, FLUSHES, fresh[0])]
        ),
        "rss-large": rows.make_result(
            of_large, of_python, [after.format(1, LARGE_FLUSHES, fresh[1])]
        ),
        "rss-all": rows.make_result(
            of_largest,
            {budgets.SOME_CIDRS: settled, **of_python},
            [f"freshly joined {fresh[2]:.1f} MB; of neither anything was repaired by then"],
        ),
        "pss": rows.make_result([found[1] for found in memory], {"a bare python3": [bare[1]]}),
        "uss": rows.make_result([found[2] for found in memory], {"a bare python3": [bare[2]]}),
        **{
            key: rows.make_result(
                [found],
                notes=(f"voluntary context switches, mean of {HOSTS} agents over {idle_s:g} s",),
            )
            for key, found in wakeups.items()
        },
    }


def _rss(hosts: Sequence[Host]) -> tuple[float, ...]:
    return tuple(cost.memory_mb(host.pid)[0] for host in hosts)


def _verify(hosts: list[Host]) -> rows.Result | rows.Missing:
    """Each agent verifies a few times; one that finds something wrong spoils only this row."""
    try:
        return rows.make_result(
            [host.ask("verify") for _ in range(VERIFY_ROUNDS) for host in hosts]
        )
    except cost.NotMeasured as error:
        return rows.Missing(str(error))


def _flushes(hosts: list[Host], count: int = FLUSHES) -> tuple[list[float], list[float]]:
    """Flush one host after another; ms until the rules were back, and until they were proven."""
    rules: list[float] = []
    proven: list[float] = []
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(_link(host)) for host in hosts]
        for number in range(count):
            host, (link, monitor) = hosts[number % len(hosts)], links[number % len(hosts)]
            monitor.read()
            began = flush(link)
            rules.append(_wait_for_commit(monitor, host.pid) - began)
            proven.append(host.wait_for(PROVEN, since_ms=began))
            # Not to wait for anything: only to stay below the rate that looks like a fight.
            time.sleep(PAUSE_S)
    return rules, proven


@contextlib.contextmanager
def _link(
    host: Host,
) -> Iterator[tuple[connection.Connection, changes.ChangeMonitor]]:
    link = host.place.namespace.inside(connection.Connection)
    monitor = host.place.namespace.inside(changes.ChangeMonitor)
    try:
        yield link, monitor
    finally:
        link.socket.close()
        monitor.close()


def flush(link: connection.Connection) -> float:
    """Delete all our tables in one transaction, as somebody else would; returns when (in ms)."""
    generation = link.generation()
    there = sorted(messages.read_table(body).name for body in link.dump(messages.GETTABLE))
    ours = [name for name in there if name in model.OUR_TABLES]
    parts = [messages.delete_table(name) for name in ours]
    began = cost.now_ms()
    link.commit(parts, lambda: generation)
    return began


def _wait_for_commit(monitor: changes.ChangeMonitor, pid: int) -> float:
    """When the next transaction of this process was announced; raises NotMeasured."""
    end = cost.now_ms() + agentlog.PATIENCE_S * 1000.0
    while (left := end - cost.now_ms()) > 0:
        if select.select([monitor.fileno()], [], [], left / 1000.0)[0]:
            at = cost.now_ms()
            if any(change.pid == pid for change in monitor.read()):
                return at
    raise cost.NotMeasured("the flushed rules did not come back")


def _idle(groups: dict[str, list[Host]], seconds: float) -> dict[str, float]:
    """Wake-ups a minute of the agents of each group while nothing happens.

    Means of a group: with two a minute, each agent alone would show none or several.
    """

    def count() -> dict[str, int]:
        return {
            key: sum(cost.voluntary_switches(host.pid) for host in hosts)
            for key, hosts in groups.items()
        }

    before = count()
    began = cost.now_ms()
    time.sleep(seconds)
    minutes = (cost.now_ms() - began) / 60_000.0
    after = count()
    return {
        key: (after[key] - before[key]) / minutes / len(hosts) for key, hosts in groups.items()
    }


def _bare_memory() -> tuple[float, float, float]:
    """What an interpreter takes that has imported nothing."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    code = "import os, signal; os.write(1, b'x'); signal.pause()"
    pid = cost.spawn([cost.PYTHON, "-c", code], output=write_end)
    try:
        os.close(write_end)
        os.read(read_end, 1)
        return cost.memory_mb(pid)
    finally:
        os.close(read_end)
        cost.kill(pid)
