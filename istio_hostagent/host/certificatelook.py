"""Have a worker say what certificate files are: those of a directory, or those that root reads.

For verbs. Keys of files that root reads pass through memory files and processes of root's, or of
one that nobody but root can look into (`workers.certificateset`); they are in no answer.
"""

import binascii
import os
from collections.abc import Sequence

from . import files, processes, users
from .answers import certificateset

WORKER = "certificateset"
TIMEOUT_S = 10.0
MAX_BYTES = 1 << 20  # of one file
_NAMES = frozenset({"key.pem", "cert-chain.pem", "root-cert.pem", "tls.key", "tls.crt", "ca.crt"})


def look(directory: str) -> certificateset.CertificateSet:
    """What istio-proxy finds in a directory; raises ChildFailed, HostUnsupported, OSError."""
    return _ask({"directory": directory}, user=_find_user())


def check(paths: Sequence[str]) -> certificateset.CertificateSet:
    """What these files are, or those of one directory; raises ChildFailed, OSError."""
    if len(paths) == 1 and os.path.isdir(paths[0]):
        names = sorted(_NAMES & set(os.listdir(paths[0])))
        paths = [os.path.join(paths[0], name) for name in names]
        # Both kinds of names side by side: Istio's count, as for those who read them.
        own = [path for path in paths if path.endswith(".pem")]
        paths = own or paths
    read = []
    for path in paths:
        data = files.read_bounded(path, MAX_BYTES)
        read.append([os.path.basename(path), binascii.b2a_base64(data).decode()])
    # The worker stays root's: one of istio-proxy's shows that user all that it was given.
    return _ask({"files": read, "user": _find_user()}, user=None)


def _find_user() -> processes.User | None:
    # Who is not root has files of their own, and no istio-proxy to become.
    return processes.User(*users.probe_user()) if os.geteuid() == 0 else None


def _ask(request: object, *, user: processes.User | None) -> certificateset.CertificateSet:
    worker = processes.Worker(WORKER, request, user=user)
    found: certificateset.CertificateSet = worker.run(TIMEOUT_S)
    return found
