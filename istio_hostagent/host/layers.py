"""The environment files as they lie on disk: who reads which, and what went wrong with it.

A file whose whole path only root can write is read here; any other by a worker that runs as
istio-proxy (design invariant 5). What the text means is `config`'s business.
"""

import os
from collections.abc import Sequence

from ..config import model
from ..errors import ChildFailed, NotPermitted, Problem
from . import files, processes
from . import trust as trusts

READ_TIMEOUT_S = 5.0


def read_layers(
    paths: Sequence[str], reader: processes.User
) -> tuple[tuple[model.Layer, ...], tuple[Problem, ...]]:
    """Read the files in order of rising precedence; one problem for each that cannot be read.

    Raises NotPermitted if a file has to be read as another user, and we are not root.
    """
    found: dict[str, model.Layer] = {}
    problems = []
    foreign = []
    for path in paths:
        try:
            trust = trusts.probe_trust(path)
            if trust.is_root_only:
                found[path] = model.Layer(path, files.read_bounded(path), trust)
            else:
                foreign.append((path, trust))
        except FileNotFoundError:
            found[path] = model.Layer(path, None, model.Trust(is_root_only=True))
        except OSError as error:
            problems.append(Problem(path, 0, f"cannot be read: {_reason(error.errno)}"))
    if foreign:
        layers, more = _read_foreign(foreign, reader)
        found.update((layer.file, layer) for layer in layers)
        problems += more
    return tuple(found[path] for path in paths if path in found), tuple(problems)


def _read_foreign(
    foreign: Sequence[tuple[str, model.Trust]], reader: processes.User
) -> tuple[list[model.Layer], list[Problem]]:
    path, trust = foreign[0]
    if os.geteuid() != 0:
        who = trusts.user_name(reader.uid)
        raise NotPermitted(
            f"{path} is read as {who}, which only root can do, because {trust.detail}",
            hint="run it as root",
        )
    paths = tuple(path for path, _ in foreign)
    try:
        found = processes.Worker("reader", paths, user=reader).run(READ_TIMEOUT_S)
    except ChildFailed as error:
        return [], [Problem(path, 0, f"cannot be read: {error}") for path, _ in foreign]
    layers = []
    problems = []
    for (path, trust), answer in zip(foreign, found, strict=True):
        if answer.data is not None:
            layers.append(model.Layer(path, answer.data, trust))
        else:
            who = trusts.user_name(reader.uid)
            message = f"cannot be read by {who}: {_reason(answer.errno)}; it is not read as root"
            problems.append(Problem(path, 0, f"{message}, because {trust.detail}"))
    return layers, problems


def _reason(number: int | None) -> str:
    return os.strerror(number) if number else "unknown error"
