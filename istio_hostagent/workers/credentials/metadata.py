"""One question to a cloud's metadata server, over HTTP, by the library `requests`.

Never through a proxy, never redirected, bounded in time and size. Answers that say "later" are
asked again as the clouds want it. Imported only where a cloud's credential is wanted: the library
takes 60 ms.
Source of the retry rule: cloud.google.com, Compute Engine, "Query VM metadata" (429 and 503,
exponential back-off).
"""

import contextlib
import signal
import time
from collections.abc import Iterator

import requests
import urllib3

MAX_BYTES = 65536
TIMEOUT_S = 5.0
_LATER = frozenset({429, 500, 502, 503, 504})
_FIRST_PAUSE_S = 0.1


def fetch(
    url: str,
    headers: dict[str, str],
    *,
    method: str = "GET",
    required: tuple[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """Return the body of an answer with status 200.

    `required`: a header that the answer must have. Raises ValueError with a reason that continues
    a sentence which begins with what was asked for.
    """
    timeout_s = min(timeout_s, TIMEOUT_S)
    try:
        with _at_most(timeout_s), requests.Session() as session:
            session.trust_env = False
            # The body is read as it comes.
            session.headers["Accept-Encoding"] = "identity"
            return _ask(session, method, url, headers, required, timeout_s)
    except _Late:
        # Wherever it rang: between two attempts, too.
        raise ValueError(f"did not come within {timeout_s:g} s") from None


def _ask(
    session: requests.Session,
    method: str,
    url: str,
    headers: dict[str, str],
    required: tuple[str, str] | None,
    timeout_s: float,
) -> bytes:
    """Ask, and again as long as there is time; raises ValueError."""
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        reason = ""
        try:
            with session.request(
                method,
                url,
                headers=headers,
                timeout=max(deadline - time.monotonic(), 0.1),
                allow_redirects=False,
                stream=True,
            ) as answer:
                status = answer.status_code
                if status == 200:
                    if required and answer.headers.get(required[0]) != required[1]:
                        raise ValueError(
                            f"did not come from a metadata server: the answer of {url} has no"
                            f" header {required[0]}: {required[1]}"
                        )
                    return _read(answer)
                reason = f"HTTP status {status}"
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            status = 503
            reason = type(error).__name__
        if status not in _LATER or time.monotonic() + pause_s > deadline:
            raise ValueError(f"was not given by {url.partition('?')[0]}: {reason}")
        time.sleep(pause_s)
        pause_s *= 2


class _Late(BaseException):
    """The time is over. No Exception: libraries make other errors of those."""


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Bound the whole: the library's own time-out begins anew with each byte.

    For a worker, whose only thread this is. Raises _Late.
    """

    def ring(_signal: int, _frame: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _read(answer: requests.Response) -> bytes:
    body: bytes = answer.raw.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise ValueError(f"is longer than {MAX_BYTES} bytes")
    # Of the library's older releases nobody else looks.
    stated = answer.headers.get("Content-Length", "")
    if stated.isdigit() and int(stated) != len(body):
        raise ValueError("did not come whole")
    return body
