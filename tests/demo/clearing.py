"""Taking a demo away by the record in its directory: one that was kept, or one that was killed.

The record `stage.json` names the namespaces; every process lives in one of them.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.lab import host, netns

PREFIX = "hademo"
PARENT = Path("/tmp")
RECORD = "stage.json"
_DIRECTORY = re.compile(rf"{PREFIX}-(\d+)-\w+")


def record(directory: Path, names: Sequence[str], *, is_kept: bool) -> None:
    """Write down what is going to be there; `is_kept`: it is to outlive its maker."""
    text = json.dumps({"namespaces": list(names), "is_kept": is_kept})
    (directory / RECORD).write_text(text)


def remove(directory: Path, names: Sequence[str]) -> None:
    """End the processes in these namespaces and remove them, their sockets and the directory."""
    with contextlib.ExitStack() as held:
        inodes = []
        for name in names:
            # As long as it is held its number, and so the files named by it, is nobody else's.
            with contextlib.suppress(FileNotFoundError):
                space = held.enter_context((netns.RUN / name).open())
                inodes.append(os.fstat(space.fileno()).st_ino)
        for name in names:
            netns.remove(name)
        for inode in inodes:
            for path in host.CONTROL.glob(f"{inode}.*"):
                path.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def end(directory: Path) -> str:
    """Take away a kept demo; return what is wrong with the directory instead, "" if nothing."""
    found = _read_record(directory)
    if found is None:
        return f"{directory} is no directory of this demo"
    remove(directory, found[0])
    return ""


def sweep() -> None:
    """Remove what demos that were killed have left."""
    for directory in PARENT.glob(f"{PREFIX}-*"):
        found = _read_record(directory)
        maker = _DIRECTORY.fullmatch(directory.name)
        if found is None or maker is None or Path(f"/proc/{maker[1]}").exists():
            continue
        names, is_kept = found
        if not is_kept or not any((netns.RUN / name).exists() for name in names):
            remove(directory, names)


def _read_record(directory: Path) -> tuple[list[str], bool] | None:
    """The namespaces of a demo's directory and whether it was to be kept; None if it is none."""
    try:
        if directory.is_symlink() or directory.stat().st_uid != 0:
            return None
        found = json.loads((directory / RECORD).read_text())
        names = [str(name) for name in found["namespaces"]]
        is_kept = bool(found["is_kept"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    own = re.compile(rf"({PREFIX}|{netns.PREFIX})-\d+-[0-9a-f]{{6}}-\w+")
    return (names, is_kept) if all(own.fullmatch(name) for name in names) else None
