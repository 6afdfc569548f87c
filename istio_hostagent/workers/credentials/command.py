"""A command of the operator's that prints a token: any cloud, any vault.

It prints the token alone, or JSON with it: as Kubernetes' ExecCredential and TokenRequest have it
(`status.token`), OAuth (`access_token`, `id_token`) or plainly (`token`); the end of its life may
stand beside it (`expirationTimestamp`, `expires_on`). It runs as istio-proxy,
with no more of an environment than a path, and with a deadline; what it writes to standard error
is shown when it fails, and nothing of what it prints.
Source of the first form: kubernetes.io, client.authentication.k8s.io/v1 ExecCredential.
"""

import contextlib
import os
import re
import signal
import subprocess
from typing import IO

from ...identity import credentials, token
from . import tokens
from .request import Candidate, Request

VIA = credentials.COMMAND
TIMEOUT_S = 10.0
MAX_WORDS = 300
_SHORTEST_SECRET = 16
# A token of any kind is one long word, in parts or not; no word of a message is.
_SECRET = re.compile(r"[A-Za-z0-9_~+/-]{20,}(?:\.[A-Za-z0-9_~+/-]+)*=*")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(request: Request, timeout_s: float = TIMEOUT_S) -> Candidate:
    """Run the command, or say why it gave no token."""
    name = f"the token of the command {request.token_command[0]}"
    try:
        printed = _run(request.token_command, min(TIMEOUT_S, timeout_s))
        text, until = token.extract(printed)
    except ValueError as error:
        return Candidate(VIA, None, f"{name} {error}")
    return tokens.make_candidate(VIA, name, text, audience=token.AUDIENCE, until=until)


def _run(command: tuple[str, ...], timeout_s: float) -> bytes:
    """Return what the command prints; raises ValueError that continues "the token ..."."""
    # Files, not pipes: whoever inherits the far end of one cannot keep us waiting for its end.
    # And not on a disk: a token is printed.
    with _memory_file("out") as out, _memory_file("err") as err:
        try:
            process = subprocess.Popen(  # noqa: S603  # only root can write the key
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd="/",
                env={"PATH": _PATH, "LANG": "C.UTF-8"},
                start_new_session=True,
            )
        except OSError as error:
            raise ValueError(f"cannot be had: {error.strerror}") from error
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"did not come within {timeout_s:g} s") from error
        finally:
            # What it has started itself ends with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        printed = _read(out.fileno(), tokens.MAX_TOKEN + 1)
        if status != 0:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            told = _tell(_read(err.fileno(), tokens.MAX_TOKEN), printed)
            raise ValueError(f"was not printed: {how}" + (f", {told}" if told else ""))
    if len(printed) > tokens.MAX_TOKEN:
        raise ValueError(f"is no token: longer than {tokens.MAX_TOKEN} characters")
    return printed


def _memory_file(name: str) -> IO[bytes]:
    return open(os.memfd_create(name, os.MFD_CLOEXEC), "w+b")


def _tell(words: bytes, printed: bytes) -> str:
    """What it said on standard error, without what may be a secret: `set -x` shows everything."""
    text = words.decode("utf-8", "replace")
    for secret in printed.decode("utf-8", "replace").split():
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "(hidden)")
    text = _SECRET.sub("(hidden)", text)
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_WORDS].strip()


def _read(descriptor: int, size: int) -> bytes:
    return os.pread(descriptor, size, 0)
