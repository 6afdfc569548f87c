"""Become the proxy, in the unit that systemd has started for it (istio-proxy@.service).

On stdin, which root has opened: words that each end with a zero byte. First the network namespace
for which it is meant, the working directory, the number of variables, these as NAME=VALUE; then
the argument list. No value meets a shell, and no environment but this one reaches the proxy.
Envoy opens /dev/stdout by name, which it cannot where that is the socket of the journal: there it
gets a pipe, and systemd-cat(1) at the other end, which ends with the last writer.
"""

import os
import signal
import sys

SYSTEMD_CAT = "/usr/bin/systemd-cat"
IDENTIFIER = "istio-proxy-access"
_MOST = 4 << 20


def main() -> None:
    """Replace this process; ends with a sentence where that cannot be."""
    words = _read(0).split(b"\0")
    if len(words) < 5:
        sys.exit("nothing to start: this unit is started by istio-hostagent.service alone")
    namespace, directory, count, *rest = words[:-1]
    if int(namespace) != os.stat("/proc/self/ns/net").st_ino:
        sys.exit(
            "the agent works in another network namespace than this unit:"
            " set ISTIO_HOSTAGENT_PROXY_UNIT=no"
        )
    environment = dict(each.split(b"=", 1) for each in rest[: int(count)])
    argv = rest[int(count) :]
    try:
        _pass_on_output()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        if directory:
            os.chdir(directory)
        os.execve(argv[0], argv, environment)  # noqa: S606 - this is what it is for
    except OSError as error:
        sys.exit(f"{os.fsdecode(argv[0])}: {error.strerror}")


def _read(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
        if len(parts) * (1 << 16) > _MOST:
            sys.exit("too much to start")
    return b"".join(parts)


def _pass_on_output() -> None:
    """Let standard output be a pipe that ends in the journal."""
    read_end, write_end = os.pipe()
    if child := os.fork():
        os.waitpid(child, 0)
        os.dup2(write_end, 1)
        return
    if os.fork():
        os._exit(0)  # so that it is no child of the proxy's, which counts its own
    # It ends behind all that write, not with them: not in their process group, not by SIGTERM.
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.dup2(read_end, 0)
    os.execv(SYSTEMD_CAT, [SYSTEMD_CAT, f"--identifier={IDENTIFIER}"])  # noqa: S606
