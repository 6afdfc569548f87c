"""The environment files as they lie on disk: who reads which, and what went wrong with it.

A file whose whole path only root can write is read here; any other by a worker that runs as
istio-proxy (design invariant 5), which only `Reading.finish` waits for. What the text
means is `config`'s business.
"""

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

from ..config import model
from ..errors import ChildFailed, NotPermitted, Problem, describe, find_remedy
from . import files, processes
from . import trust as trusts
from .answers import reader as answers

WORKER = "reader"
READ_TIMEOUT_S = 5.0


class Found(NamedTuple):
    """The files in order of rising precedence; one problem for each that cannot be read."""

    layers: tuple[model.Layer, ...]
    problems: tuple[Problem, ...]


class Begun(NamedTuple):
    """What root has read, and what is left for the worker."""

    paths: tuple[str, ...]
    layers: dict[str, model.Layer]
    problems: tuple[Problem, ...]
    foreign: dict[str, model.Trust]
    reader: str  # the name of the user who reads those

    @property
    def request(self) -> tuple[str, ...]:
        """What the worker is asked."""
        return tuple(self.foreign)

    def end(self, answer: Sequence[answers.FileRead]) -> Found:
        """Add what the worker has read."""
        layers, problems = dict(self.layers), list(self.problems)
        for (path, trust), read in zip(self.foreign.items(), answer, strict=True):
            if read.data is not None:
                layers[path] = model.Layer(path, read.data, _with(trust, read.weak))
            elif read.errno == errno.ENOENT:
                layers[path] = _absent(path)
            else:
                text = f"cannot be read by {self.reader}: {_reason(read.errno)}"
                if read.errno == errno.EACCES:
                    text += f" (chown {self.reader} {path}, or chmod o+r, o+x on the way there)"
                message = f"{text}; it is not read as root"
                problems.append(Problem(path, 0, f"{message}, because {trust.detail}"))
        found = tuple(layers[path] for path in self.paths if path in layers)
        return Found(found, tuple(problems))


def begin(paths: Sequence[str], reader: processes.User) -> Begun:
    """Read what only root can write; what others can change is not even looked at.

    That is left for a worker that runs as `reader`.
    """
    layers: dict[str, model.Layer] = {}
    problems = []
    foreign = {}
    for path in paths:
        try:
            trust = trusts.probe_trust(path)
            if trust.is_root_only:
                layers[path] = model.Layer(path, files.read_bounded(path), trust)
            else:
                foreign[path] = trust
        except FileNotFoundError:
            layers[path] = _absent(path)
        except OSError as error:
            problems.append(Problem(path, 0, f"cannot be read: {_reason(error.errno)}"))
    who = trusts.user_name(reader.uid) if foreign else ""
    return Begun(tuple(paths), layers, tuple(problems), foreign, who)


class Reading:
    """Environment files that are being read by a verb; nothing waits until `finish`."""

    def __init__(self, paths: Sequence[str], reader: processes.User) -> None:
        """Read what root may read, and start the worker for the rest, which runs as `reader`.

        Raises NotPermitted if a file has to be read as another user, and we are not root.
        """
        self._begun = begin(paths, reader)
        if os.geteuid() not in (0, reader.uid):
            self._begun = _without_absent(self._begun)
        self._worker: processes.Worker | None = None
        if self._begun.foreign:
            try:
                self._worker = processes.Worker(WORKER, self._begun.request, user=reader)
            except OSError as error:
                why = f"cannot be started: {describe(error)}"
                raise ChildFailed(f"worker {WORKER}", why) from error

    def finish(self) -> Found:
        """Wait for all the files; a worker that fails is a problem of each that it was to read."""
        begun = self._begun
        if self._worker is None:
            return begun.end(())
        try:
            return begun.end(self._worker.run(READ_TIMEOUT_S))
        except ChildFailed as error:
            problems = [
                Problem(path, 0, f"cannot be read: {error.text}") for path in begun.foreign
            ]
            left = begun._replace(foreign={}, problems=(*begun.problems, *problems))
            return left.end(())


def _without_absent(begun: Begun) -> Begun:
    """An ordinary user may see at least that there is no file."""
    there = {path: trust for path, trust in begun.foreign.items() if os.path.lexists(path)}
    for path, trust in there.items():
        raise NotPermitted(
            f"{path} is read as {begun.reader}, which only root can do, because {trust.detail}",
            hint="run it as root",
        )
    absent = {path: _absent(path) for path in begun.foreign}
    return begun._replace(layers=begun.layers | absent, foreign={})


def _with(trust: model.Trust, weak: answers.Weak | None) -> model.Trust:
    """Add what istio-proxy says of the rest of the way: a lie of his gives him what is his."""
    if weak is None:
        return trust._replace(is_proxys=True)
    return trust._replace(detail=trusts.describe(weak.path, weak.uid, weak.mode))


def _absent(path: str) -> model.Layer:
    return model.Layer(path, None, model.Trust(is_root_only=True))


def _reason(number: int | None) -> str:
    words = os.strerror(number) if number else "unknown error"
    remedy = find_remedy(None, words)
    return f"{words} ({remedy})" if remedy else words
