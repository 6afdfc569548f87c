"""Give key, certificate and roots to the proxy (Envoy's SDS); runs as istio-proxy, for long.

Arguments: the directory of the files, or a link to it; and the path of a unix socket to make,
where systemd has not handed one over. Nothing on stdin and stdout; it ends when nobody has asked
for anything for a while, if systemd can start it again, else with SIGTERM.
What it parses comes from istio-proxy and root alone. It holds a key: see `host.secrecy`.
"""

import os
import sys

from ..host import activation, errorstream, garbage, secrecy, secretfiles, secretserver

# Started by systemd's socket, a server that nobody wants any more ends.
IDLE_S = 30.0
_INFO = "<6>"


def main() -> None:
    """Serve."""
    # Worker processes end soon; this one does not, and connections refer to themselves.
    garbage.collect_after_all()
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: launch.py secrets DIRECTORY [SOCKET]")
    if os.geteuid() == 0:
        sys.exit("secrets are given out by istio-proxy, not by root: start this as that user")
    directory, path = sys.argv[2], "".join(sys.argv[3:4])
    stream = errorstream.shared()
    prefix = _INFO if "JOURNAL_STREAM" in os.environ else ""

    def say(text: str) -> None:
        stream.write(f"{prefix}{text}\n")

    try:
        secrecy.keep_memory()
        given = activation.take_listener(os.environ)
        if given is None and not path:
            sys.exit("no socket: systemd has handed none over, and none is named")
        listener = given or secretserver.listen(path)
        files = secretfiles.SecretFiles(directory)
    except OSError as error:
        sys.exit(f"secrets cannot be given out: {error.filename or path}: {error.strerror}")
    idle_s = IDLE_S if given is not None else None
    server = secretserver.SecretServer(listener, files, say, idle_s=idle_s)
    garbage.keep_all()
    server.serve()


if __name__ == "__main__":
    main()
