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


class Reading:
    """Environment files that are being read; nothing waits for the worker until `finish`."""

    def __init__(self, paths: Sequence[str], reader: processes.User) -> None:
        """Read what root may read, and start the worker for the rest, which runs as `reader`.

        Raises NotPermitted if a file has to be read as another user, and we are not root.
        """
        self._paths = paths
        self._reader = reader
        self._found: dict[str, model.Layer] = {}
        self._problems: list[Problem] = []
        self._foreign: dict[str, model.Trust] = {}
        for path in paths:
            self._begin(path)
        self._worker = self._start_worker() if self._foreign else None

    def _begin(self, path: str) -> None:
        try:
            trust = trusts.probe_trust(path)
            if trust.is_root_only:
                self._found[path] = model.Layer(path, files.read_bounded(path), trust)
            else:
                self._foreign[path] = trust
        except FileNotFoundError:
            self._found[path] = model.Layer(path, None, model.Trust(is_root_only=True))
        except OSError as error:
            self._problems.append(Problem(path, 0, f"cannot be read: {_reason(error.errno)}"))

    def _start_worker(self) -> processes.Worker:
        if os.geteuid() != 0:
            path, trust = next(iter(self._foreign.items()))
            who = trusts.user_name(self._reader.uid)
            raise NotPermitted(
                f"{path} is read as {who}, which only root can do, because {trust.detail}",
                hint="run it as root",
            )
        return processes.Worker("reader", tuple(self._foreign), user=self._reader)

    def finish(self) -> tuple[tuple[model.Layer, ...], tuple[Problem, ...]]:
        """Give the files in the order of their paths; one problem for each that cannot be read."""
        if self._worker is not None:
            self._take(self._worker)
        found = tuple(self._found[path] for path in self._paths if path in self._found)
        return found, tuple(self._problems)

    def _take(self, worker: processes.Worker) -> None:
        try:
            answers = worker.run(READ_TIMEOUT_S)
        except ChildFailed as error:
            text = f"cannot be read: {error}"
            self._problems += (Problem(path, 0, text) for path in self._foreign)
            return
        for (path, trust), answer in zip(self._foreign.items(), answers, strict=True):
            if answer.data is not None:
                self._found[path] = model.Layer(path, answer.data, trust)
                continue
            who = trusts.user_name(self._reader.uid)
            text = f"cannot be read by {who}: {_reason(answer.errno)}; it is not read as root"
            self._problems.append(Problem(path, 0, f"{text}, because {trust.detail}"))


def read_layers(
    paths: Sequence[str], reader: processes.User
) -> tuple[tuple[model.Layer, ...], tuple[Problem, ...]]:
    """Read the files, as `Reading` does, and wait for them."""
    return Reading(paths, reader).finish()


def _reason(number: int | None) -> str:
    return os.strerror(number) if number else "unknown error"
