"""What can be shown to a CA, one module for each kind: `find(...)` gives a Candidate.

Not here: by which protocol it is shown, and what becomes of the answer.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ...host import certificatestore
from ...identity import credentials
from . import pairs
from .request import Candidate, Request


@dataclass(frozen=True)
class Source:
    """Where candidates of one kind come from: `find(timeout_s)`, once it is needed.

    `is_of_protocol`: what it gives depends on the protocol.
    """

    kind: str
    find: Callable[[float], Iterable[Candidate]]
    is_of_protocol: bool = False


def list_sources(snapshot: certificatestore.Snapshot, request: Request) -> Iterator[Source]:
    """Give the sources, the best first.

    A token's file may lie where nothing answers any more, and a command takes time. A copied
    certificate is the last resort.
    """
    held = Source(credentials.CERTIFICATE, lambda _: pairs.find_held(snapshot, request))
    is_copied = pairs.is_copied(snapshot)
    if not is_copied:
        yield held
    yield Source(credentials.PROVISIONED, lambda _: pairs.find_provisioned(snapshot, request))
    yield from _list_others(request)
    if is_copied:
        yield held


def _list_others(request: Request) -> Iterator[Source]:
    """What is obtained anew; each module is loaded only where it is wanted."""
    if request.token_command:
        yield Source(credentials.COMMAND, lambda timeout_s: _run_command(request, timeout_s))
    if request.metadata_kind == credentials.GOOGLE:
        yield Source(credentials.GOOGLE, lambda timeout_s: _ask_google(request, timeout_s), True)
    if request.metadata_kind == credentials.AMAZON:
        yield Source(credentials.AMAZON, lambda timeout_s: _ask_amazon(request, timeout_s), True)
    if request.token_file:
        yield Source(credentials.TOKEN, lambda _: _read_token(request))


def _run_command(request: Request, timeout_s: float) -> Iterator[Candidate]:
    from . import command

    yield command.find(request, timeout_s)


def _ask_google(request: Request, timeout_s: float) -> Iterator[Candidate]:
    from . import google

    yield google.find(request, timeout_s)


def _ask_amazon(request: Request, timeout_s: float) -> Iterator[Candidate]:
    from . import amazon

    yield amazon.find(request, timeout_s)


def _read_token(request: Request) -> Iterator[Candidate]:
    from . import tokenfile

    yield tokenfile.find(request)
