"""The error family: one class per party that must act, each with a stable name and an exit status.

Not here: the decision what the loop does about an error (that is the caller's) and exceptions of
libraries (they stop in `host`).
`code` is documented in istio-hostagent(8) and is never renamed. Exit statuses are those of
sysexits.h where one fits.
"""

import errno
import os
import signal
from collections.abc import Sequence
from typing import ClassVar, NamedTuple


class Problem(NamedTuple):
    """One thing wrong with an input file. `line` counts from 1; 0 means the file as a whole."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        """The form that editors understand, `file:line: message`; a line of 0 is left out."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.message}"


_INOTIFY = "raise the sysctl fs.inotify.max_user_%s, and in /etc/sysctl.d to keep it: its user has"
_MEMORY = "memory ran out: see `free -m`, and MemoryMax= of the unit"
_DESCRIPTORS = (
    "raise LimitNOFILE= with `systemctl edit istio-hostagent`, for a proxy in a unit of its own"
    " with `systemctl edit istio-proxy@.service`"
)
_ALL_DESCRIPTORS = "raise the sysctl fs.file-max"
_PROCESSES = (
    "no more processes are allowed: see TasksMax= of the unit, the sysctl kernel.pid_max and"
    " `ps -eLf | wc -l`"
)
# What the kernel, the C library, Python and Envoy call a shortage, and what to do about it. An
# ellipsis stands for any words between; what comes first counts.
_REMEDIES = {
    "unable to add filesystem watch…No space left on device": _INOTIFY % "watches"
    + " no inotify watch left",
    "assert failure: inotify_fd_": _INOTIFY % "instances" + " no inotify instance left",
    "Address already in use": "`ss -tanp` shows who has that port; the sysctl"
    " net.ipv4.ip_local_reserved_ports keeps a port from becoming that of a client",
    "Too many open files in system": _ALL_DESCRIPTORS,
    "Too many open files": _DESCRIPTORS,
    "Cannot allocate memory": _MEMORY,
    # The dynamic linker names only the number.
    "loading shared libraries…Error 24": _DESCRIPTORS,
    "loading shared libraries…Error 23": _ALL_DESCRIPTORS,
    "loading shared libraries…Error 12": _MEMORY,
    "memory allocation": _MEMORY,
    "out of memory": _MEMORY,
    "MemoryError": _MEMORY,
    "failed to map segment": _MEMORY,
    "Resource temporarily unavailable": _PROCESSES,
    "Cannot fork": _PROCESSES,
    "Job for istio-proxy": "`systemctl status 'istio-proxy*'` and `journalctl -u 'istio-proxy*'`"
    " say why systemd did not start it; ISTIO_HOSTAGENT_PROXY_UNIT=no does without",
    "Read-only file system": "it is mounted read-only: `dmesg` says why; `mount -o remount,rw`",
    "No space left on device": "it is full: see `df -h` and `df -i`",
    "Disk quota exceeded": "the quota of its owner is used up: see `quota`",
    "Input/output error": "the disk has failed: `dmesg` says more",
}
# Shortages of the machine, which are no mistake of a program and may pass.
SHORTAGES = frozenset(
    getattr(errno, name)
    for name in ("EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EROFS", "ENOSPC", "EDQUOT", "EIO")
)
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
_KILLED = "if nobody killed it, memory ran out: `journalctl -k | grep -i oom`"


def find_remedy(status: int | None, text: str) -> str:
    """What to do about a process that ended so (negative: by this signal) with these last words.

    Nothing if it is not known to be a shortage of the machine.
    """
    if status == -signal.SIGKILL:
        return _KILLED
    remedy = next((remedy for words, remedy in _REMEDIES.items() if _says(text, words)), "")
    if status is not None and -status in _CRASHES and not remedy:
        return "it crashed: `coredumpctl` and `journalctl -k` say more"
    return remedy


def _says(text: str, words: str) -> bool:
    first, _, rest = words.partition("…")
    return rest in text.partition(first)[2] if first in text else False


def describe(error: OSError) -> str:
    """An error of the operating system in words, and what to do about it."""
    words = os.strerror(error.errno) if error.errno else str(error)
    remedy = find_remedy(None, words)
    return f"{words} ({remedy})" if remedy else words


class HostAgentError(Exception):
    """Base of everything raised on purpose.

    `hint` is one sentence that says what to do, or empty.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep `message` (one line, no full stop) and `hint` apart; both can be shown."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def text(self) -> str:
        """The message, and what to do about it."""
        return f"{self} ({self.hint})" if self.hint else str(self)


class ConfigInvalid(HostAgentError):
    """The files cannot become a `Config`; the operator edits them. Carries every problem."""

    code = "config-invalid"
    exit_status = 78

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Take at least one problem; the message is the first one and the number of the others."""
        self.problems = tuple(sorted(problems))
        others = len(self.problems) - 1
        more = f" (and {others} more)" if others else ""
        super().__init__(f"{self.problems[0]}{more}")


class WrongUsage(HostAgentError):
    """A command line asks for what does not exist or cannot be; whoever wrote it corrects it."""

    code = "wrong-usage"
    exit_status = 64


class HostUnsupported(HostAgentError):
    """The host lacks something that no retry brings: a kernel feature, a user, a binary."""

    code = "host-unsupported"
    exit_status = 69


class NotPermitted(HostAgentError):
    """A capability or a file right is missing; the message names it."""

    code = "not-permitted"
    exit_status = 77


class AgentRunning(HostAgentError):
    """The verb would work behind the back of the agent that controls this network namespace."""

    code = "agent-running"
    exit_status = 75


class AgentUnreachable(HostAgentError):
    """No agent runs in this network namespace, or it did not answer in time."""

    code = "agent-unreachable"
    exit_status = 75


class Unconfirmed(HostAgentError):
    """Rules wait for confirmation, and the verb would change them; or none can wait here."""

    code = "unconfirmed"
    exit_status = 75


class NothingToConfirm(HostAgentError):
    """No rules wait for confirmation, or not any more."""

    code = "nothing-to-confirm"
    exit_status = 1


class CertificateRefused(HostAgentError):
    """The CA answered and said no; only an operator can change that."""

    code = "certificate-refused"
    exit_status = 77


class CredentialMissing(HostAgentError):
    """The CA is not asked: there is nothing to show to it, or no root to know it by."""

    code = "credential-missing"
    exit_status = 77


class CertificateUntrusted(HostAgentError):
    """The CA's answer does not fit our key, name or roots; the held certificate stays."""

    code = "certificate-untrusted"
    exit_status = 77


class AuthorityUnavailable(HostAgentError):
    """No answer from the CA: time-out, connection, overload. Worth another try."""

    code = "authority-unavailable"
    exit_status = 75


class RegistryUnavailable(HostAgentError):
    """No answer from a registry of services: time-out, connection, no leader. Try again."""

    code = "registry-unavailable"
    exit_status = 75


class RegistryRefused(HostAgentError):
    """A registry of services answered and said no; only an operator can change that."""

    code = "registry-refused"
    exit_status = 77


class NotRegistered(HostAgentError):
    """There is nothing to deregister: no such service at this address."""

    code = "not-registered"
    exit_status = 1


class KernelBusy(HostAgentError):
    """A dump was interrupted or a lock is held; try again at once, a bounded number of times."""

    code = "kernel-busy"
    exit_status = 75


class Overtaken(KernelBusy):
    """Somebody else committed between the look at the rules and the change; nothing changed."""


_CLIENTS_PORT = (
    "it is free when that connection ends; the sysctl net.ipv4.ip_local_reserved_ports keeps a"
    " port from clients"
)


class PortTaken(HostAgentError):
    """Somebody else has a port that captured connections are to arrive at; `port` is its number.

    `uid`, `inode`: whose socket that is, as far as the kernel tells; None: it does not.
    """

    code = "port-taken"
    exit_status = 75

    def __init__(
        self,
        message: str,
        *,
        port: int,
        address: str = "",
        uid: int | None = None,
        inode: int = 0,
        is_client: bool = False,
    ) -> None:
        """Keep beside the sentence what a look at the processes needs.

        `is_client`: it is the port of a connection on the client's side.
        """
        another = "end that program, or give it another port"
        super().__init__(message, hint=_CLIENTS_PORT if is_client else another)
        self.is_client = is_client
        self.port = port
        self.address = address
        self.uid = uid
        self.inode = inode


class ApplyRejected(HostAgentError):
    """The kernel refused a transaction; nothing changed. `step` is the message it refused."""

    code = "apply-rejected"
    exit_status = 75

    def __init__(self, message: str, *, step: str, errno: int, hint: str = "") -> None:
        """Keep the refused step and the errno beside the sentence."""
        super().__init__(message, hint=hint)
        self.step = step
        self.errno = errno


class StillDrifted(HostAgentError):
    """The rules went in and the check afterwards found a difference.

    `drifts` holds one line for each.
    """

    code = "still-drifted"
    exit_status = 75

    def __init__(
        self,
        drifts: Sequence[str],
        *,
        how: str = "after apply still different",
        hint: str = "",
    ) -> None:
        """Take at least one line; the message is the first one and the number of the others.

        `how`: what the check was.
        """
        self.drifts = tuple(drifts)
        others = len(self.drifts) - 1
        more = f" (and {others} more)" if others else ""
        super().__init__(f"{how}: {self.drifts[0]}{more}", hint=hint)


class NotTakenOver(HostAgentError):
    """Our rules are in, and what Istio's scripts have left there could not be taken out."""

    code = "not-taken-over"
    exit_status = 75


class NotReached(HostAgentError):
    """Captured connections from outside are dropped by the host's own firewall.

    `dropped` holds one line for each.
    """

    code = "not-reached"
    exit_status = 75

    def __init__(self, dropped: Sequence[str], *, hint: str = "") -> None:
        """Take at least one line; the message is the first one and the number of the others."""
        self.dropped = tuple(dropped)
        others = len(self.dropped) - 1
        more = f" (and {others} more, see verify)" if others else ""
        super().__init__(f"{self.dropped[0]}{more}", hint=hint)


class NamesUnanswered(HostAgentError):
    """The resolver of this host does not answer the names that it was told to."""

    code = "names-unanswered"
    exit_status = 75


class ResolverSilent(HostAgentError):
    """The resolver of the mesh's names, to which queries are captured, does not answer."""

    code = "resolver-silent"
    exit_status = 75


class ChildFailed(HostAgentError):
    """A process we started ended or never became ready. `tail` holds its last lines of output."""

    code = "child-failed"
    exit_status = 75

    def __init__(
        self, name: str, outcome: str, tail: Sequence[str] = (), *, hint: str = ""
    ) -> None:
        """`outcome` says how it ended in words, for example `exited with status 1`."""
        self.name = name
        self.outcome = outcome
        self.tail = tuple(tail)
        last = f": {self.tail[-1]}" if self.tail else ""
        super().__init__(f"{name} {outcome}{last}", hint=hint)
