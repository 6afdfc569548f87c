"""A file with a bootstrap token, read anew for each attempt."""

from ...host import access, files
from ...identity import credentials, token
from . import tokens
from .request import Candidate, Request

VIA = credentials.TOKEN


def find(request: Request) -> Candidate:
    """Read the token, or say what is wrong with it."""
    name = f"the token {request.token_file}"
    try:
        data = files.read_bounded(request.token_file)
    except OSError as error:
        return Candidate(VIA, None, f"{name} {access.explain(request.token_file, error)}")
    if len(data) > tokens.MAX_TOKEN:
        return Candidate(
            VIA, None, f"{name} is no token: longer than {tokens.MAX_TOKEN} characters"
        )
    if mistake := token.find_mistake(data, request.token_file):
        return Candidate(VIA, None, f"{name} {mistake}")
    text = data.decode("ascii").strip()
    return tokens.make_candidate(VIA, name, text, audience=token.AUDIENCE)
