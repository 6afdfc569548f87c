"""The one door to other processes: spawn, look after, end.

posix_spawn and pidfds instead of the subprocess module: 2 MB less in the resident process, no fork
of a process with threads, and no reused pid is ever signalled. Users are switched by setpriv(1),
which also asks the kernel to kill the child when we die (PR_SET_PDEATHSIG after the switch, since
a change of credentials clears it), so nothing that we start outlives us, outside systemd as well.
"""

import contextlib
import json
import os
import select
import signal
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import ChildFailed, find_remedy
from . import handover, procstate
from .answers import checks, formats

SETPRIV = "/usr/bin/setpriv"
# The kernel's promise to end the child counts from setpriv's prctl on. Had we died before it, the
# child would live for ever: so it looks once whether its parent is still the one it was given as
# $0. The text is fixed and the program comes as arguments: no value is ever read as shell.
ADOPTED = '[ "$PPID" = "$0" ] && exec "$@"'
# What it writes into a memory file is memory of the machine: no file of it gets longer than 64 MiB
# (setrlimit(2), RLIMIT_FSIZE; in blocks of 512 bytes).
BOUNDED = f"ulimit -f {64 << 20 >> 9} && {ADOPTED}"
# An ambient capability outlives the change of the user and the exec (capabilities(7)).
NET_ADMIN = ("--inh-caps=-all,+net_admin", "--ambient-caps=+net_admin")
PYTHON = "/usr/bin/python3"
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# A worker finds the package through this descriptor: a checkout may lie below /root, where
# istio-proxy could not go by path, and a magic link asks nobody for the way (proc(5)).
PACKAGE_DESCRIPTOR = 3
LAUNCHER = f"/proc/self/fd/{PACKAGE_DESCRIPTOR}/{os.path.basename(PACKAGE)}/workers/launch.py"
# libldap, which comes with libcurl, looks this host's own name up when it is loaded: with a silent
# name server that took 10 s before the first byte went to the CA.
WORKER_ENVIRONMENT = {"RES_OPTIONS": "timeout:1 attempts:2"}
# The same by path, for who is no child of ours.
OWN_LAUNCHER = f"{PACKAGE}/workers/launch.py"
# As in the unit of the secret server: less memory for who stays.
SERVER_ENVIRONMENT = {"LC_ALL": "C", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
# Who is still there so long after SIGKILL sleeps in a wait that no signal ends, as in that for a
# file system that does not answer (state D of proc(5)), or is frozen by its cgroup.
STUCK_S = 1.0
# Of a program's output so much is kept, the end of it: there it says why it ended.
MAX_OUTPUT = 1 << 16
# Of what a worker says when it fails, and of one line of it in a message.
MAX_ERRORS, MAX_LINE = 4096, 300
# What a terminal or a log would act on, and no line end.
_CONTROL = bytes(code for code in (*range(32), 127) if code not in b"\t\n")
_TO_PRINT = bytes.maketrans(_CONTROL, b"?" * len(_CONTROL))
BASE_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class User(NamedTuple):
    """The uid and gid that a child runs with; it gets no supplementary groups.

    `is_net_admin`: it keeps CAP_NET_ADMIN, and no other capability.
    """

    uid: int
    gid: int
    is_net_admin: bool = False


# Those whose status will be taken here.
CHILDREN: set[int] = set()


class Child:
    """A running child. `descriptor` is its pidfd: readable when the child has ended."""

    def __init__(self, pid: int) -> None:
        """Take over a child of this process that nobody has waited for."""
        self.pid = pid
        CHILDREN.add(pid)
        self.descriptor = os.pidfd_open(pid)
        self.status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal that ended it), or None while it runs."""
        if self.status is None:
            found = os.waitid(os.P_PIDFD, self.descriptor, os.WEXITED | os.WNOHANG)
            if found is not None:
                exited = found.si_code == os.CLD_EXITED
                self.status = found.si_status if exited else -found.si_status
                CHILDREN.discard(self.pid)
                os.close(self.descriptor)
        return self.status

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end; None if it still runs after `timeout_s` seconds."""
        self.await_end(timeout_s)
        return self.poll()

    def await_end(self, timeout_s: float) -> None:
        """Wait for the end, at most so many seconds, without taking the status."""
        if self.status is None:
            select.select([self.descriptor], [], [], timeout_s)

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens if the child has ended."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.descriptor, number)

    def has_ended(self) -> bool:
        """Whether it has ended, without taking its status: its number stays its own till then."""
        if self.status is not None:
            return True
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PIDFD, self.descriptor, options) is not None

    def signal_group(self, number: int) -> None:
        """Send a signal to everything in its process group, as long as its status was not taken.

        Until then its number is nobody else's, so no stranger's group is meant.
        """
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def end_group(self) -> None:
        """SIGKILL to everything in its process group, as long as its status was not taken."""
        self.signal_group(signal.SIGKILL)

    def end(self, timeout_s: float) -> int | None:
        """SIGTERM, then after `timeout_s` seconds SIGKILL; returns the exit status.

        None: it still runs a second after that, in a wait that no signal ends.
        """
        self.signal(signal.SIGTERM)
        status = self.wait(timeout_s)
        if status is None:
            self.signal(signal.SIGKILL)
            status = self.wait(STUCK_S)
        return status


def spawn(
    argv: Sequence[str],
    *,
    user: User | None = None,
    environment: Mapping[str, str] | None = None,
    directory: str = "",
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    package: int | None = None,
    channel: int | None = None,
    is_bounded: bool = False,
) -> Child:
    """Start `argv` in a process group of its own, with an environment made from nothing.

    It has only the descriptors given here (stdin defaults to /dev/null, output to ours; `package`
    becomes number 3, `channel` number 4), dies with us, and gains no privileges. One that
    `is_bounded` writes no long file. Raises OSError.
    """
    prefix = [SETPRIV, "--pdeathsig", "KILL", "--no-new-privs"]
    if user is not None:
        # An agent of an ordinary user's has nobody else to become.
        is_own = (user.uid, user.gid) == (os.geteuid(), os.getegid())
        switch = (f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups")
        rights = NET_ADMIN if user.is_net_admin else ("--inh-caps=-all",)
        prefix += [*(() if is_own else switch), *rights]
    script = BOUNDED if is_bounded else ADOPTED
    prefix += ["--", "/bin/sh", "-c", script, str(os.getpid())]
    if directory:
        # setpriv has no option for it; env(1) replaces itself by the program like setpriv does.
        prefix += ["/usr/bin/env", "--chdir", directory]
    actions: list[tuple[Any, ...]] = []
    if stdin is None:
        actions.append((os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0))
    else:
        actions.append((os.POSIX_SPAWN_DUP2, stdin, 0))
    if stdout is not None:
        actions.append((os.POSIX_SPAWN_DUP2, stdout, 1))
    if stderr is not None:
        actions.append((os.POSIX_SPAWN_DUP2, stderr, 2))
    if package is not None:
        actions.append((os.POSIX_SPAWN_DUP2, package, PACKAGE_DESCRIPTOR))
    if channel is not None:
        # The second of two descriptors: its number is above 3, and nothing above is put over it.
        actions.append((os.POSIX_SPAWN_DUP2, channel, handover.DESCRIPTOR))
    pid = os.posix_spawn(
        SETPRIV,
        [*prefix, *argv],
        dict(BASE_ENVIRONMENT if environment is None else environment),
        file_actions=actions,
        setpgroup=0,
        setsigmask=(),
        setsigdef=(
            *(signal.SIGPIPE, signal.SIGXFSZ),  # which Python ignores
            *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
        ),
    )
    return Child(pid)


class Run:
    """A process whose whole output is wanted at its end; a memory file takes it.

    A memory file instead of a pipe: neither side ever blocks on the other.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        user: User | None = None,
        stdin: int | None = None,
        package: int | None = None,
        channel: int | None = None,
        has_errors: bool = False,
        errors: int | None = None,
    ) -> None:
        """Start it; standard error goes where ours goes, to `errors`, or into the output.

        The last if it `has_errors`. Raises OSError.
        """
        self._output = os.memfd_create("output", os.MFD_CLOEXEC)
        try:
            errors = self._output if has_errors else errors
            self.child = spawn(
                argv,
                user=user,
                stdin=stdin,
                stdout=self._output,
                stderr=errors,
                package=package,
                channel=channel,
                is_bounded=True,
                environment=None if package is None else BASE_ENVIRONMENT | WORKER_ENVIRONMENT,
            )
        except OSError:
            os.close(self._output)
            raise

    def finish(self) -> bytes:
        """Kill it if it still runs, and return the end of what it wrote, fit to be printed.

        Nobody waits for its end: the caller takes its status later.
        """
        return self._take(MAX_OUTPUT, is_end=True).translate(_TO_PRINT)

    def _take(self, most: int, *, is_end: bool = False) -> bytes:
        """Kill it if it still runs, and return at most so many bytes of what it wrote.

        Its user can write more at any moment, also after it has ended (/proc/PID/fd): what is
        read here once is all that counts.
        """
        if self.child.poll() is None:
            self.child.signal(signal.SIGKILL)
        try:
            return _read(self._output, most, is_end=is_end)
        finally:
            os.close(self._output)


def _read(descriptor: int, most: int, *, is_end: bool) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, min(size, most), max(size - most, 0) if is_end else 0)


class Worker(Run):
    """A short-lived process of ours: one JSON value in, one out.

    A tuple of texts goes in as arguments: what takes nothing else needs no JSON. They are no
    secrets: everybody can read them.
    """

    def __init__(
        self,
        module: str,
        request: object,
        *,
        user: User | None = None,
        channel: int | None = None,
    ) -> None:
        """Start `istio_hostagent.workers.<module>` with this request; raises OSError."""
        self.module = module
        self._request = request
        self._format = formats.find(module)
        arguments = request if isinstance(request, tuple) else ()
        with contextlib.ExitStack() as opened:
            source = _opened(opened, os.memfd_create("request", os.MFD_CLOEXEC))
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            package = _opened(opened, os.open(os.path.dirname(PACKAGE), flags))
            self._errors = os.memfd_create("errors", os.MFD_CLOEXEC)
            unused = contextlib.ExitStack()
            opened.enter_context(unused)
            unused.callback(os.close, self._errors)
            if not arguments:
                with open(source, "wb", closefd=False) as stream:
                    stream.write(json.dumps(request).encode())
                os.lseek(source, 0, os.SEEK_SET)
            # -S: the launcher finds libraries by itself (`host.libraries`).
            argv = [PYTHON, "-I", "-S", "-X", "utf8", LAUNCHER, module, *arguments]
            super().__init__(
                argv,
                user=user,
                stdin=source,
                package=package,
                channel=channel,
                errors=self._errors,
            )
            unused.pop_all()  # it is read at the end

    def result(self) -> Any:
        """Return its answer, as a value of `answers`.

        Raises ChildFailed if it ended badly, still runs, or gave no answer that fits.
        """
        status = self.child.poll()
        # One byte more shows that it is too long.
        data = self._take(self._format.max_bytes + 1)
        if status != 0:
            raise ended_badly(f"worker {self.module}", status, self._last_words.splitlines())
        try:
            return formats.read(self._format, data, self._request)
        except checks.Wrong as error:
            raise ChildFailed(f"worker {self.module}", f"gave a wrong answer: {error}") from error

    def _take(self, most: int, *, is_end: bool = False) -> bytes:
        try:
            text = _read(self._errors, MAX_ERRORS, is_end=True)
            self._last_words = text.translate(_TO_PRINT).decode(errors="replace")
        finally:
            os.close(self._errors)
        return super()._take(most, is_end=is_end)

    def run(self, timeout_s: float) -> Any:
        """Wait at most `timeout_s` seconds for the answer; raises ChildFailed."""
        self.child.wait(timeout_s)
        try:
            return self.result()
        finally:
            self.child.wait(STUCK_S)


def start_server(module: str, arguments: Sequence[str], *, user: User) -> Child:
    """Start `istio_hostagent.workers.<module>` for as long as it likes; raises OSError.

    The arguments are no secrets: everybody can read them.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    package = os.open(os.path.dirname(PACKAGE), flags)
    try:
        return spawn(
            [PYTHON, "-I", "-S", "-X", "utf8", LAUNCHER, module, *arguments],
            user=user,
            package=package,
            environment=BASE_ENVIRONMENT | SERVER_ENVIRONMENT,
        )
    finally:
        os.close(package)


def still_running(pid: int) -> str:
    """Say in words that SIGKILL has not ended a process."""
    return f"still runs after SIGKILL: pid {pid}, state {procstate.probe_rest(pid) or '?'}"


def ended_badly(name: str, status: int | None, tail: Sequence[str]) -> ChildFailed:
    """The error of a process that ended so, with its last words and what to do about them."""
    said = [line for line in tail if line.strip()]
    # The line that says why is not always the last one: frames of a traceback may follow.
    telling = [line for line in said if find_remedy(None, line)]
    telling = telling or [line for line in said if not line[0].isspace()]
    if telling and telling[-1] != said[-1]:
        said.append(telling[-1])
    remedy = find_remedy(status, said[-1] if said else "")
    return ChildFailed(name, outcome(status), list(map(_shorten, said)), hint=remedy)


def _shorten(line: str) -> str:
    """Begin and end of a long line: the cause often comes last."""
    half = MAX_LINE // 2
    return line if len(line) <= MAX_LINE else f"{line[:half]} … {line[-half:]}"


def _opened(opened: contextlib.ExitStack, descriptor: int) -> int:
    opened.callback(os.close, descriptor)
    return descriptor


def outcome(status: int | None) -> str:
    """Say in words how a process ended."""
    if status is None:
        return "did not end in time"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"exited with status {status}"
