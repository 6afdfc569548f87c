"""The door to other processes."""

import os
import re
import select
import shutil
import signal
from pathlib import Path

import pytest

from istio_hostagent.errors import ChildFailed
from istio_hostagent.host import layers, processes
from istio_hostagent.host.answers import reader

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to switch users")

NOBODY = processes.User(65534, 65534)


def output_of(argv: list[str], user: processes.User | None = None) -> tuple[int | None, str]:
    run = processes.Run(argv, user=user)
    status = run.child.wait(60.0)
    return status, run.finish().decode()


def test_a_child_has_the_user_asked_for_and_no_groups_nor_capabilities() -> None:
    status, text = output_of(
        ["/usr/bin/grep", "-E", "^(Uid|Gid|Groups|Cap)", "/proc/self/status"], NOBODY
    )
    assert status == 0
    fields = dict(line.split(":", 1) for line in text.splitlines())
    assert fields["Uid"].split() == ["65534"] * 4
    assert fields["Gid"].split() == ["65534"] * 4
    assert fields["Groups"].split() == []
    assert int(fields["CapEff"], 16) == 0
    assert int(fields["CapInh"], 16) == 0


def test_a_child_gains_no_privileges() -> None:
    _, text = output_of(["/usr/bin/grep", "NoNewPrivs", "/proc/self/status"])
    assert text.split() == ["NoNewPrivs:", "1"]


def test_a_child_has_no_environment_but_the_one_made_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOSTAGENT_SECRET", "do not inherit")
    _, text = output_of(["/usr/bin/env"])
    assert "HOSTAGENT_SECRET" not in text


def test_a_child_has_no_descriptor_of_ours(tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w") as secret:
        _, text = output_of(["/usr/bin/ls", "-l", "/proc/self/fd"])
        assert secret.name not in text


def test_the_status_of_a_signal_is_negative_and_put_into_words() -> None:
    child = processes.spawn(["/usr/bin/sleep", "30"])
    child.signal(signal.SIGKILL)
    status = child.wait(60.0)
    assert status == -signal.SIGKILL
    assert processes.outcome(status) == "was ended by SIGKILL"


def test_ending_a_child_that_ignores_sigterm_kills_it() -> None:
    script = "trap '' TERM; echo ready; exec 1>&-; while :; do /usr/bin/sleep 0.05; done"
    read_end, write_end = os.pipe()
    child = processes.spawn(["/bin/sh", "-c", script], stdout=write_end)
    os.close(write_end)
    assert os.read(read_end, 6) == b"ready\n"
    os.close(read_end)
    assert child.end(0.2) in (None, -signal.SIGKILL)
    assert child.wait(60.0) == -signal.SIGKILL


def test_children_die_with_the_process_that_started_them() -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]);"
        "from istio_hostagent.host import processes;"
        "child = processes.spawn(['/usr/bin/sleep', '60'], user=processes.User(65534, 65534));"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    root = str(Path(__file__).parents[2])
    source, sink = os.pipe()
    answer = os.memfd_create("answer")
    parent = processes.spawn(["/usr/bin/python3", "-c", code, root], stdin=source, stdout=answer)
    while not (text := os.pread(answer, 20, 0)).endswith(b"\n"):
        assert parent.poll() is None
    grandchild = os.pidfd_open(int(text))
    parent.signal(signal.SIGKILL)
    parent.wait(60.0)

    assert select.select([grandchild], [], [], 60.0)[0], "the grandchild survived"
    for descriptor in (source, sink, answer, grandchild):
        os.close(descriptor)


def test_a_worker_that_gives_no_answer_is_an_error_with_its_name() -> None:
    with pytest.raises(ChildFailed, match="worker reader"):
        processes.Worker("reader", {"wrong": []}).run(60.0)


def test_a_worker_that_hangs_is_ended_at_its_deadline(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    worker = processes.Worker("reader", (str(tmp_path / "fifo"),))
    # O_NONBLOCK: even a FIFO does not make the reader hang.
    assert worker.run(60.0) == (reader.FileRead(errno=22),)


def test_files_below_a_foreign_directory_are_not_read_as_root(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o077 == 0:
            directory.chmod(0o755)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    secret = tmp_path / "secret"
    secret.write_text("TOKEN=x\n")
    secret.chmod(0o600)
    (theirs / "cluster.env").symlink_to(secret)
    found, problems = layers.Reading([str(theirs / "cluster.env")], NOBODY).finish()
    assert found == ()
    assert len(problems) == 1
    assert "Permission denied" in problems[0].message
    assert "not read as root" in problems[0].message


def test_a_worker_of_another_user_finds_the_package_below_a_closed_directory(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    checkout = closed / "checkout"
    checkout.mkdir(mode=0o755)
    shutil.copytree(Path(processes.PACKAGE), checkout / "istio_hostagent")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from istio_hostagent.host import processes;"
        "user = processes.User(65534, 65534);"
        "print(processes.Worker('reader', ('/etc/hostname',), user=user).run(60.0))"
    )
    status, text = output_of(["/usr/bin/python3", "-c", code, str(checkout)])
    assert status == 0
    assert "FileRead(data=b'" in text


HOSTILE = {
    "too-long": ("sys.stdout.write('[' + ' ' * 60_000_000 + ']')", r"longer than \d+ bytes"),
    "too-many-parts": (
        "sys.stdout.write('[' + '[],' * 1_000_000 + '[]]')",
        "more than 1000 parts",
    ),
    "too-deep": ("sys.stdout.write('[' * 900 + ']' * 900)", "file is not an object"),
    "no-text": ("sys.stdout.buffer.write(b'\\xff\\xfe')", "no JSON"),
    "another-number": ("sys.stdout.write('[]')", "not a list of 1"),
    "a-hole": ("import os; os.ftruncate(1, 60 << 20)", r"longer than \d+ bytes"),
}


@pytest.mark.parametrize(("code", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_whatever_a_worker_writes_is_a_failure_of_that_worker(
    tmp_path: Path, code: str, reason: str
) -> None:
    """A package of its own, whose worker does what somebody who holds its user could do."""
    shutil.copytree(Path(processes.PACKAGE), tmp_path / "istio_hostagent")
    worker = tmp_path / "istio_hostagent" / "workers" / "reader.py"
    worker.write_text(f"import sys\ndef main():\n    {code}\n")
    ask = (
        "import re, sys; sys.path.insert(0, sys.argv[1]);"
        "from istio_hostagent import errors; from istio_hostagent.host import processes\n"
        "try: processes.Worker('reader', {'paths': ['/etc/hostname']}).run(30.0)\n"
        "except errors.ChildFailed as error: print(error)\n"
        "print(re.search('VmHWM:\\\\s+(\\\\d+)', open('/proc/self/status').read())[1])"
    )
    status, text = output_of(["/usr/bin/python3", "-c", ask, str(tmp_path)])
    said, size_kb = text.splitlines()
    assert status == 0
    assert said.startswith("worker reader gave a wrong answer: ")
    assert re.search(reason, said)
    assert int(size_kb) < 60_000


def test_of_a_programs_output_the_end_is_kept_and_can_be_printed() -> None:
    script = "/usr/bin/yes 0123456789 | /usr/bin/head -c 20000000; printf 'it\\033[2Jends\\r\\n'"
    run = processes.Run(["/bin/sh", "-c", script])
    assert run.child.wait(20.0) == 0
    output = run.finish()
    assert len(output) == processes.MAX_OUTPUT
    assert output.endswith(b"it?[2Jends?\n")


def test_a_program_that_writes_without_end_is_ended_before_it_fills_the_memory() -> None:
    run = processes.Run(["/usr/bin/head", "-c", "1G", "/dev/zero"])
    assert run.child.wait(20.0) == -signal.SIGXFSZ
    run.finish()


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        ({"NOFILE": 4}, "Error 24.*LimitNOFILE="),
        ({"AS": 10_000_000}, "failed to map.*memory ran out"),
    ],
)
def test_a_worker_that_fails_for_want_of_something_says_of_what(
    limits: dict[str, int], cause: str
) -> None:
    # prlimit(1) in place of the interpreter: what it sets is the worker's alone.
    code = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from istio_hostagent.host import processes
from istio_hostagent.errors import ChildFailed
spawn = processes.spawn
def limited(argv, **options):
    return spawn(["/usr/bin/prlimit", *sys.argv[2:], *argv], **options)
processes.spawn = limited
try:
    print(processes.Worker("reader", ("/etc/hostname",)).run(20.0))
except ChildFailed as error:
    print(error.text)
"""
    options = [f"--{name.lower()}={number}" for name, number in limits.items()]
    root = str(Path(processes.PACKAGE).parent)
    status, text = output_of([processes.PYTHON, "-c", code, root, *options])
    assert status == 0
    assert re.search(cause, text), text
    assert "worker reader exited with status" in text


def test_a_worker_that_the_kernel_kills_is_named_with_where_to_look() -> None:
    error = processes.ended_badly("worker certificate", -signal.SIGKILL, ["a", "b"])
    assert error.text == (
        "worker certificate was ended by SIGKILL: b"
        " (if nobody killed it, memory ran out: `journalctl -k | grep -i oom`)"
    )


def test_what_a_worker_says_when_it_fails_is_kept_and_bounded(tmp_path: Path) -> None:
    error = processes.ended_badly("worker x", 1, ["first", "", "x" * 100_000])
    assert len(error.text) < 400


def test_the_cause_at_the_end_of_a_long_line_is_kept_with_what_mends_it() -> None:
    cause = "unable to add filesystem watch for file /run/x: No space left on device"
    said = [f"error initializing configuration {'x' * 300}: {cause}", "#0: [0x7f902e405050]"]
    text = processes.ended_badly("envoy", 1, said).text
    assert "No space left on device" in text
    assert "fs.inotify.max_user_watches" in text


def test_no_descriptor_is_left_behind_by_workers() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in ("/etc/hostname", "/nonexistent"):
        processes.Worker("reader", (path,)).run(20.0)
    abandoned = processes.Worker("reader", ("/etc/hostname",))
    abandoned.finish()
    abandoned.child.wait(60.0)
    assert len(os.listdir("/proc/self/fd")) == before
