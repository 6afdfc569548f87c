"""`apply --confirm-within`: what goes in comes out again unless somebody says that it works.

Whoever may be killed is killed here: the verb, its terminal, its session, the process that waits.
"""

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from istio_hostagent.host import control
from tests.agent.test_documented import documented_fields
from tests.lab import netns, servers
from tests.lab.host import CHECKOUT, CONTROL, PYTHON, Host, proxy_user
from tests.lab.waiting import eventually
from tests.netns.test_agent import TABLES

# The shortest that is taken.
SHORT = "20s"
LONG = "10m"
A = {"ISTIO_SERVICE_CIDR": "10.96.0.0/12"}
B = {"ISTIO_SERVICE_CIDR": "10.96.0.0/12,172.20.0.0/16"}
APPLY = f"{PYTHON} -m istio_hostagent apply"
NOBODY = 65534
GOLDEN = sorted((CHECKOUT / "tests" / "golden" / "cases").glob("*.env"))


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with files, on which nothing of ours is or runs."""
    with netns.Namespace("confirm") as space, Host(space) as made:
        write(made, A)
        made.write_sidecar("ISTIO_INBOUND_PORTS=8080\n")
        yield made


def write(host: Host, keys: dict[str, str]) -> None:
    host.write_cluster(CA_ADDR="192.0.2.1:15012", **keys)


def rules(host: Host) -> str:
    """Everything that apply changes, as other programs see it; parts of a table by their names."""
    listing = host.namespace.run(["nft", "-s", "list", "ruleset"], check=True).stdout
    routing = (
        ("rule",),
        ("-6", "rule"),
        *((f"-{v}", "route", "show", "table", "all") for v in "46"),
    )
    commands = (("-o", "address", "show", "dev", "lo"), *routing)
    found = [host.namespace.ip(*words) for words in commands]
    for name, body in re.findall(
        r"^table (\S+ \S+) \{\n(.*?)^\}", listing, re.MULTILINE | re.DOTALL
    ):
        found += [name, *sorted(part.strip("\n") for part in body.split("\n\n"))]
    return "\n".join(found)


def waiting(host: Host) -> dict[str, Any]:
    """What status says of rules that wait for confirmation, or of the last that did."""
    done = host.verb("status", "--json", is_checked=False)
    assert done.returncode == 75
    shown = json.loads(done.stdout)
    found = dict(shown.pop("unconfirmed"))
    names = [*shown, *(f"unconfirmed.{name}" for name in found)]
    assert sorted(names) == sorted(documented_fields("status --json` where no agent runs"))
    return found


def is_over(host: Host) -> bool:
    """Whether nobody is left who could go back."""
    return not host.namespace.pids()


@pytest.fixture(params=["nothing", "other rules"])
def before(host: Host, request: pytest.FixtureRequest) -> str:
    """What is there before; what is applied then is something else."""
    if request.param == "other rules":
        host.verb("apply")
        write(host, B)
    return rules(host)


def test_what_nobody_confirms_goes_back_to_exactly_what_was_there(host: Host, before: str) -> None:
    shown = host.verb("apply", "--confirm-within", SHORT).stdout
    assert "unless you confirm: istio-hostagent apply --confirm" in shown
    assert rules(host) != before
    assert host.tables() == TABLES
    assert waiting(host)["state"] == "waiting"
    assert not host.state.exists(), "nothing is written to the state directory"

    eventually(lambda: rules(host) == before, "it has gone back")
    eventually(lambda: is_over(host), "the process that went back has ended")
    assert waiting(host)["state"] == "taken back"
    late = host.verb("apply", "--confirm", is_checked=False)
    assert late.returncode == 1
    assert "no rules wait for confirmation: rules applied by" in late.stderr
    assert "were taken back at" in late.stderr
    assert rules(host) == before


def test_what_is_confirmed_stays_and_is_what_apply_leaves(host: Host, before: str) -> None:
    host.verb("apply", "--confirm-within", LONG)
    tried = rules(host)
    host.verb("apply", "--confirm")
    eventually(lambda: is_over(host), "nobody waits any more")
    assert rules(host) == tried != before
    assert waiting(host)["state"] == "confirmed"
    assert host.verb("apply", "--confirm", is_checked=False).returncode == 1
    assert host.verb("apply").stdout == "nothing to do: the rules are as desired\n"
    assert rules(host) == tried
    assert not host.state.exists()
    # What became of it is of no interest behind an apply for good.
    assert "no agent runs" in host.verb("status", is_checked=False).stderr


def test_one_can_go_back_at_once_and_begin_again(host: Host, before: str) -> None:
    for _ in range(3):
        host.verb("apply", "--confirm-within", LONG)
        assert rules(host) != before
        assert "0.0/" in host.verb("apply", "--go-back").stdout
        assert rules(host) == before
    assert host.verb("apply", "--go-back", is_checked=False).returncode == 1


@pytest.mark.parametrize("case", GOLDEN, ids=lambda path: path.stem)
def test_rules_of_every_kind_come_back(host: Host, case: Path) -> None:
    # Some keys count from root's own file alone, so that everything goes there.
    common = host.hostagent_env.read_text() + "ISTIO_HOSTAGENT_PROXY=pilot-agent\n"
    host.hostagent_env.write_text(common + case.read_text())
    host.write_cluster(CA_ADDR="192.0.2.1:15012")
    host.write_sidecar("")
    host.verb("apply")
    before = rules(host)
    host.hostagent_env.write_text(common)
    write(host, B)
    host.verb("apply", "--confirm-within", LONG)
    assert rules(host) != before
    host.verb("apply", "--go-back")
    assert rules(host) == before


def test_a_second_apply_is_refused_and_told_who_was_first(host: Host) -> None:
    alice = {"LOGNAME": "alice", "SSH_CONNECTION": "192.0.2.7 40000 192.0.2.1 22"}
    command = host.namespace.argv([*APPLY.split(), "--confirm-within", "1h"])
    subprocess.run(command, env=host.environment | alice, check=True, stdin=subprocess.DEVNULL)
    write(host, B)
    tried = rules(host)
    for words in (("apply",), ("apply", "--quiet"), ("apply", "--confirm-within", LONG)):
        refused = host.verb(*words, is_checked=False)
        assert refused.returncode == 75
        sentence, hint = refused.stderr.splitlines()
        assert sentence.startswith(
            "istio-hostagent: rules applied by alice from 192.0.2.7 wait for confirmation until 2"
        )
        assert "apply --confirm" in hint and "apply --go-back" in hint
        assert rules(host) == tried
    shown = host.verb("status", is_checked=False)
    assert "alice from 192.0.2.7 wait for confirmation until 2" in shown.stdout
    # The verbs that change nothing are for finding out whether it works.
    assert host.verb("plan").stdout
    assert host.verb("verify", is_checked=False).returncode == 1
    host.verb("apply", "--confirm")
    host.verb("apply")
    eventually(lambda: is_over(host), "nobody waits any more")
    assert host.verb("plan").stdout == ""


def shell(host: Host, within: str) -> list[str]:
    """A login that applies and goes on."""
    script = f"{APPLY} --confirm-within {within}; echo applied; sleep 1000 & sleep 1000"
    return host.namespace.argv(["/bin/bash", "-c", script])


def members(session: int) -> list[int]:
    """Every process of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            found.append(int(path.parent.name))
    return found


def test_killing_the_login_with_all_its_processes_keeps_nothing_in(
    host: Host, before: str
) -> None:
    login = subprocess.Popen(
        shell(host, SHORT),
        env=host.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert login.stdout is not None
    assert "applied\n" in iter(login.stdout.readline, "")
    assert rules(host) != before
    os.killpg(login.pid, signal.SIGKILL)
    for pid in members(login.pid):
        # The kill of the group may have got there first.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    login.communicate(timeout=60)
    assert waiting(host)["state"] == "waiting"
    eventually(lambda: rules(host) == before, "it has gone back")


def test_an_ssh_session_that_is_lost_keeps_nothing_in(host: Host, before: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        command = shell(host, SHORT)
        os.execvpe(command[0], command, host.environment)
    try:
        said = b""
        while b"unless you confirm" not in said:
            said += os.read(terminal, 65536)
        assert "on pts/" in waiting(host)["who"]
    finally:
        os.close(terminal)  # as sshd does: the kernel sends SIGHUP
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert rules(host) != before
    eventually(lambda: rules(host) == before, "it has gone back")


def test_whenever_apply_is_killed_nothing_has_changed_or_somebody_waits(
    host: Host, before: str
) -> None:
    begun = time.monotonic()
    host.verb("apply", "--confirm-within", LONG)
    took_s = time.monotonic() - begun
    host.verb("apply", "--go-back")
    states: set[str] = set()
    for number in itertools.count():
        if number > 25 and "waiting" in states:
            break
        process = subprocess.Popen(
            host.namespace.argv([*APPLY.split(), "--confirm-within", LONG]),
            env=host.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        time.sleep(took_s * number / 20)  # no event tells of a moment within it
        process.kill()
        process.wait(10)
        if not (CONTROL / f"{host.namespace.inode}.unconfirmed").exists():
            states.add("not begun")
            assert rules(host) == before
            eventually(lambda: is_over(host), "who was to wait has ended")
            continue
        state = waiting(host)["state"]
        states.add(state)
        host.verb("apply", "--go-back")
        assert rules(host) == before
    assert states == {"not begun", "waiting"}


def test_without_the_process_that_waits_status_says_so_and_one_can_decide(
    host: Host, before: str
) -> None:
    for word in ("--go-back", "--confirm"):
        host.verb("apply", "--confirm-within", LONG)
        tried = rules(host)
        os.kill(waiting(host)["pid"], signal.SIGKILL)
        eventually(lambda: is_over(host), "it is gone")
        found = waiting(host)
        assert (found["state"], found["pid"]) == ("abandoned", None)
        assert (
            "the process that was to take them back is gone, and nobody does" in found["summary"]
        )
        refused = host.verb("apply", is_checked=False)
        assert refused.returncode == 75
        assert found["summary"] in refused.stderr
        host.verb("apply", word)
        assert rules(host) == (before if word == "--go-back" else tried)


def test_ending_the_process_that_waits_goes_back_at_once(host: Host, before: str) -> None:
    host.verb("apply", "--confirm-within", LONG)
    os.kill(waiting(host)["pid"], signal.SIGHUP)
    os.kill(waiting(host)["pid"], signal.SIGTERM)
    eventually(lambda: rules(host) == before, "it has gone back")


def test_it_goes_back_as_soon_as_nobody_else_works_on_the_rules(host: Host, before: str) -> None:
    host.verb("apply", "--confirm-within", SHORT)
    tried = rules(host)
    with open(CONTROL / f"{host.namespace.inode}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        eventually(lambda: "being taken back" in waiting(host)["summary"], "its time is over")
        assert rules(host) == tried
        said = "cannot be taken back: another agent or verb works in this network namespace"
        eventually(lambda: said in waiting(host)["summary"], "it says why")
    eventually(lambda: rules(host) == before, "it has gone back")


def test_clean_ends_it_too(host: Host) -> None:
    host.verb("apply")
    write(host, B)
    host.verb("apply", "--confirm-within", LONG)
    host.verb("clean")
    assert host.tables() == set()
    eventually(lambda: is_over(host), "nobody waits any more")
    assert host.tables() == set()
    assert "taken out by clean" in waiting(host)["summary"]


def test_clean_ends_it_also_where_what_is_written_down_is_damaged(host: Host) -> None:
    host.verb("apply")
    write(host, B)
    host.verb("apply", "--confirm-within", LONG)
    (CONTROL / f"{host.namespace.inode}.unconfirmed").write_text("{")
    for words in (("apply",), ("apply", "--confirm"), ("status",)):
        refused = host.verb(*words, is_checked=False)
        assert refused.returncode == 75
        assert "istio-hostagent clean takes everything out" in refused.stderr
    host.verb("clean")
    eventually(lambda: is_over(host), "nobody waits any more")
    assert host.tables() == set()
    host.verb("apply")


def test_who_cannot_go_back_ends_as_soon_as_that_is_decided(host: Host) -> None:
    """Its pauses grow, and the process of the next rules waits for its end."""
    host.verb("apply", "--confirm-within", SHORT)
    space = host.namespace
    space.run(["nft", "delete", "table", "inet", "istio_hostagent"], check=True)
    # Somebody else's table of our name, which nobody but its socket may change.
    owner = space.popen(["nft", "-i"], stdin=-1)
    assert owner.stdin is not None
    owner.stdin.write("add table inet istio_hostagent { flags owner; }\n")
    owner.stdin.flush()
    listing = ["nft", "list", "ruleset"]
    eventually(lambda: "flags owner" in space.run(listing).stdout, "it is there")
    told = CONTROL / f"{space.inode}.watch"
    seen = {told.stat().st_mtime_ns}

    def has_failed_often() -> bool:
        seen.add(told.stat().st_mtime_ns)
        return len(seen) > 4  # the pause is of 8 seconds now

    eventually(has_failed_often, "it has tried four times")
    owner.stdin.close()
    owner.wait(10)
    host.verb("apply", "--confirm")
    eventually(lambda: is_over(host), "it has seen that")


def test_an_agent_that_starts_leaves_what_a_verb_at_work_writes_down(host: Host) -> None:
    record = CONTROL / f"{host.namespace.inode}.unconfirmed"
    CONTROL.mkdir(exist_ok=True)
    stale = {"id": "0", "who": "x", "until": 0, "until_at": 0, "namespace": 1}
    record.write_text(json.dumps(stale))
    lock_path = CONTROL / f"{host.namespace.inode}.lock"
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        host.start()

        eventually(lambda: str(lock_path) in open_files(host), "it has come to the lock")
        assert record.exists()
    eventually(lambda: host.verb("status", is_checked=False).returncode == 1, "it runs")
    assert not record.exists()


def open_files(host: Host) -> set[str]:
    """What the processes there have open."""
    found = set()
    for pid in host.namespace.pids():
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):  # it is closed meanwhile
                    found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def test_an_agent_starts_behind_what_was_there_and_then_has_no_trial(host: Host) -> None:
    host.verb("apply", "--confirm-within", LONG)
    host.start()
    eventually(lambda: host.verb("status", is_checked=False).returncode == 1, "it runs")
    assert "rules that nobody had confirmed were taken back" in host.log_text()
    assert host.tables() == set()
    refused = host.verb("apply", "--confirm-within", LONG, is_checked=False)
    assert refused.returncode == 75
    assert "refused while the agent runs" in refused.stderr
    assert "systemctl stop istio-hostagent" in refused.stderr
    assert host.verb("apply", "--confirm", is_checked=False).returncode == 1


def test_a_lock_that_others_hold_is_waited_for_no_longer_than_asked(host: Host) -> None:
    def act() -> float:
        first, second = control.Lock(), control.Lock()
        try:
            assert first.take()
            begun = time.monotonic()
            assert not second.take(within_s=0.005)
            return time.monotonic() - begun
        finally:
            first.close()
            second.close()

    # The quickest of some: a busy machine may take its time.
    assert 0.005 <= min(host.namespace.inside(act) for _ in range(5)) < control.MIN_PAUSE_S


def test_an_agent_that_does_not_answer_is_not_taken_for_none(host: Host) -> None:
    """What became of rules that waited says nothing of a host on which an agent runs."""
    host.verb("apply", "--confirm-within", LONG)
    host.verb("apply", "--go-back")
    path = str(CONTROL / f"{host.namespace.inode}.sock")
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:  # until no more are let in to wait
                one = opened.enter_context(socket.socket(socket.AF_UNIX))
                one.setblocking(False)
                one.connect(path)
        for words in ((), ("--json",)):
            done = host.verb("status", *words, is_checked=False)
            assert (done.returncode, done.stdout) == (75, "")
            assert "the agent is busy with too many others" in done.stderr


def test_rules_that_could_not_be_put_back_are_not_replaced_for_a_trial(host: Host) -> None:
    host.verb("apply")
    rule = "limit rate 5/second return"
    command = ["nft", "insert", "rule", "inet", "istio_hostagent", "ISTIO_OUTPUT", *rule.split()]
    host.namespace.run(command, check=True)
    before = rules(host)
    refused = host.verb("apply", "--confirm-within", LONG, is_checked=False)
    assert refused.returncode == 75
    assert "could not be put back: table inet istio_hostagent chain ISTIO_OUTPUT" in refused.stderr
    assert rules(host) == before
    assert host.verb("apply", "--confirm", is_checked=False).returncode == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--confirm-within", ""),
        ("--confirm-within", "60"),
        ("--confirm-within", "4.9s"),
        ("--confirm-within", "1h1s"),
        ("--confirm-within", "soon"),
        ("--confirm", "--go-back"),
        ("--confirm-within", "60s", "--confirm"),
    ],
)
def test_a_wrong_command_line_changes_nothing(host: Host, words: tuple[str, ...]) -> None:
    done = host.verb("apply", *words, is_checked=False)
    assert done.returncode == 64
    assert done.stderr
    assert host.tables() == set()


def has_applied(host: Host) -> bool:
    return host.verb("apply", "--confirm-within", LONG, is_checked=False).returncode == 0


# Connects until its input ends, and counts what it hears.
CLIENT = """
import collections, json, os, select, socket, sys
heard = collections.Counter()
print("begun", flush=True)
while not select.select([0], [], [], 0)[0]:
    try:
        with socket.create_connection(("10.96.0.5", 80), 2) as made:
            heard[made.recv(100).decode().split(" ")[0].strip()] += 1
    except OSError as error:
        heard[str(error)] += 1
print(json.dumps(heard))
"""


def test_no_connection_goes_around_the_proxy_while_it_goes_back(host: Host) -> None:
    with netns.Namespace("neighbour") as neighbour:
        netns.link(host.namespace, neighbour, "10.1.0.2/24", "10.1.0.1/24")
        neighbour.add_address("lo", "10.96.0.5/32")
        host.namespace.ip("route", "add", "default", "via", "10.1.0.1")
        host.verb("apply")
        write(host, B)
        proxy = servers.Kind.ORIGINAL_DESTINATION
        uid, _ = proxy_user()
        with (
            servers.Server(host.namespace, proxy, "0.0.0.0", 15001, user=uid, shares_port=True),
            servers.Server(
                neighbour, servers.Kind.RECORD, "10.96.0.5", 80, banner="around\n", user=0
            ),
        ):
            before = rules(host)
            client = host.namespace.popen(
                [PYTHON, "-c", CLIENT],
                user=NOBODY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert client.stdout is not None
            assert client.stdout.readline() == "begun\n"
            for _ in range(5):
                # Whoever goes back holds the lock a little longer than that takes.
                eventually(lambda: has_applied(host), "it is on trial")
                os.kill(waiting(host)["pid"], signal.SIGTERM)
                eventually(lambda: rules(host) == before, "it has gone back")
            heard = json.loads(client.communicate(input="", timeout=20)[0])
    assert heard.keys() == {"10.96.0.5"}
    assert heard["10.96.0.5"] > 100
