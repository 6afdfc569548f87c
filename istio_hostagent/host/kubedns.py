"""Puts the file `kubedns` of the classic guides into force on this host, and takes it out again.

In force: dnsmasq answers the names in it, and the resolver of the host, which every program asks,
gives these answers. Whatever of this fails, all files are as they were before. Not here: who is to
be told what (`nameresolver`). For the verb alone; it waits for programs and for answers.
"""

import os
import re
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..config import kubedns
from ..errors import HostUnsupported, NamesUnanswered, NotPermitted, describe
from . import files, nameresolver, programs
from .nameresolver import Manager, Way

DNSMASQ = "/usr/sbin/dnsmasq"
_RESOLVED = "systemd/resolved.conf"
_DNSMASQ_UNIT = "dnsmasq.service"
_UNIT_OF_DNSMASQ = f"/lib/systemd/system/{_DNSMASQ_UNIT}"
# A restart of NetworkManager asks for addresses anew, and a boot may be under way.
_UNIT_TIME_S = 60.0
_PROGRAM_TIME_S = 10.0
_ANSWER_TIME_S = 10.0
_NOT_ASKED = "not asked: the answers before took too long"
_PAUSE_S = 0.1


class State(NamedTuple):
    """What is in force: by which program's leave, and what the resolver says of each name.

    `answers`: the entries with what is wrong with the answer to each; nothing if it is right, and
    None for whole domains, of which no name is known.
    """

    manager: Manager
    answers: tuple[tuple[kubedns.Entry, str | None], ...]


def install(text: str, path: str) -> State:
    """Put it into force; raises ConfigInvalid, HostUnsupported, NotPermitted, NamesUnanswered.

    `path`: where the text comes from, for messages.
    """
    entries = kubedns.parse(text, path)
    was_there = find_installed()
    _require_ours(text)
    manager = nameresolver.find_manager()
    needed = DNSMASQ if manager is Manager.NETWORK_MANAGER else _UNIT_OF_DNSMASQ
    if not os.path.exists(needed):
        package = "dnsmasq-base" if needed == DNSMASQ else "dnsmasq"
        raise HostUnsupported(
            f"{package} is not installed", hint=f"apt-get install {package}, then again"
        )
    servers = "" if was_there else _find_servers(manager)
    if was_there and manager is Manager.RESOLVED:
        servers = _kept_servers()
    domains = tuple(dict.fromkeys(entry.name for entry in entries))
    was_at_rest = _was_at_rest() if was_there else not _is_running()
    way = nameresolver.find_way(manager, text, domains, servers, was_at_rest=was_at_rest)
    before = _put(way)
    try:
        _restart(way)
        answers = _wait(entries)
    except (NamesUnanswered, KeyboardInterrupt):
        _write(before)
        _undo(way.units, is_at_rest=was_at_rest and not was_there)
        raise
    return State(manager, answers)


def _require_ours(text: str) -> None:
    """Raises NotPermitted where somebody has put another file of that name there by hand."""
    path = nameresolver.DNSMASQ_FILE
    is_ours = os.path.exists(nameresolver.DNSMASQ_OPTIONS)
    if not is_ours and (_read(path) or text) != text:
        raise NotPermitted(
            f"{path} is there, and is not ours", hint="move it away, or install that one"
        )


def remove() -> bool:
    """Take it out; whether it was in force. Raises NotPermitted, NamesUnanswered."""
    way = _find_removal()
    if way is None:
        return False
    was_at_rest = _was_at_rest()
    _write(dict.fromkeys(way.files) | _without_lines())
    _undo(way.units, is_at_rest=was_at_rest)
    return True


def find_installed() -> str | None:
    """The file that is in force, if one is that `install` has put there."""
    for options, names in (
        (nameresolver.DNSMASQ_OPTIONS, nameresolver.DNSMASQ_FILE),
        (nameresolver.NETWORK_MANAGER_FILE, nameresolver.NETWORK_MANAGER_NAMES),
    ):
        if os.path.exists(options) and os.path.exists(names):
            return names
    return None


def look(path: str) -> State:
    """Ask for each name now; `path`: of the file in force. Raises ConfigInvalid, NotPermitted."""
    try:
        text = files.read_bounded(path).decode(errors="replace")
    except OSError as error:
        raise NotPermitted(f"{path}: {describe(error)}") from error
    entries = kubedns.parse(text, path)
    end = time.monotonic() + _ANSWER_TIME_S
    return State(nameresolver.find_manager(), tuple(_ask(entries, end)))


def _find_servers(manager: Manager) -> str:
    """The servers that systemd-resolved was given for all names."""
    if manager is not Manager.RESOLVED:
        return ""
    return " ".join(nameresolver.find_servers(_run("systemd-analyze", "cat-config", _RESOLVED)))


def _kept_servers() -> str:
    """Those that were found when it was put in."""
    text = files.read_bounded(nameresolver.DNSMASQ_OPTIONS).decode(errors="replace")
    return " ".join(re.findall(r"^server=(.*)$", text, re.MULTILINE))


def _put(way: Way) -> dict[str, str | None]:
    """Write what the way says, or nothing; the texts of before."""
    wanted: dict[str, str | None] = dict(way.files)
    wanted |= {path: nameresolver.with_line(path, line) for path, line in way.lines.items()}
    before = {path: _read(path) for path in wanted}
    try:
        _write(wanted)
    except NotPermitted:
        _write(before)
        raise
    return before


def _read(path: str) -> str | None:
    try:
        return files.read_bounded(path).decode(errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotPermitted(f"{path}: {describe(error)}") from error


def _write(texts: Mapping[str, str | None]) -> None:
    for path, text in texts.items():
        try:
            if text is None:
                files.remove(path)
            elif text != _read(path):
                os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
                _replace(os.path.realpath(path), text.encode(errors="surrogateescape"))
        except OSError as error:
            raise NotPermitted(f"{path}: {describe(error)}") from error


def _replace(path: str, data: bytes) -> None:
    """Keep whose a file is, and who may read it: one of dhclient may hold a key."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        files.write_atomically(path, data, mode=0o644)
        return
    owner = status.st_uid, status.st_gid
    files.write_atomically(path, data, mode=stat.S_IMODE(status.st_mode), owner=owner)


def _find_removal() -> Way | None:
    """Everything of ours that is there, whichever way it was put in; None: nothing."""
    units = {
        nameresolver.DNSMASQ_FILE: _DNSMASQ_UNIT,
        nameresolver.DNSMASQ_OPTIONS: _DNSMASQ_UNIT,
        nameresolver.RESOLVED_FILE: "systemd-resolved.service",
        nameresolver.NETWORK_MANAGER_FILE: "NetworkManager.service",
        nameresolver.NETWORK_MANAGER_NAMES: "NetworkManager.service",
    }
    # A file `kubedns` that somebody has put there by hand is his.
    is_ours = {
        nameresolver.DNSMASQ_FILE: os.path.exists(nameresolver.DNSMASQ_OPTIONS),
        nameresolver.NETWORK_MANAGER_NAMES: os.path.exists(nameresolver.NETWORK_MANAGER_FILE),
    }
    there = [path for path in units if os.path.exists(path) and is_ours.get(path, True)]
    lines = _without_lines()
    if not there and not lines:
        return None
    found = tuple(dict.fromkeys(units[path] for path in there))
    return Way(nameresolver.find_manager(), dict.fromkeys(there, ""), {}, found)


def _without_lines() -> dict[str, str | None]:
    """The files with lines of ours, as they are without them."""
    found: dict[str, str | None] = {}
    for path, line in nameresolver.LINES.items():
        text = nameresolver.without_line(path, line)
        if text != (_read(path) or ""):
            found[path] = text
    return found


def _restart(way: Way) -> None:
    """Have the programs read their files; raises NamesUnanswered where one does not take them."""
    for unit in way.units:
        _run("systemctl", "restart", unit)


def _undo(units: Sequence[str], *, is_at_rest: bool) -> None:
    """Have them read their files of before; dnsmasq rests if it did. Raises NamesUnanswered.

    Beside systemd-resolved it wants port 53 of every address, and whoever is first has it.
    """
    for unit in units:
        _run("systemctl", "stop" if is_at_rest and unit == _DNSMASQ_UNIT else "restart", unit)


def _is_running() -> bool:
    return _run("systemctl", "show", "--property=ActiveState", _DNSMASQ_UNIT).strip() == (
        "ActiveState=active"
    )


def _was_at_rest() -> bool:
    return nameresolver.AT_REST in (_read(nameresolver.DNSMASQ_OPTIONS) or "")


def _run(*argv: str) -> str:
    return programs.run(
        (f"/usr/bin/{argv[0]}", *argv[1:]),
        timeout_s=_UNIT_TIME_S if argv[0] == "systemctl" else _PROGRAM_TIME_S,
        failed=NamesUnanswered,
    )


def _wait(
    entries: Sequence[kubedns.Entry],
) -> tuple[tuple[kubedns.Entry, str | None], ...]:
    """Ask until every name has its address; raises NamesUnanswered with the first that has not."""
    end = time.monotonic() + _ANSWER_TIME_S
    said_last: dict[str, str] = {}
    while True:
        answers = tuple(_ask(entries, end))
        wrong = {entry.name: said for entry, said in answers if said}
        if not wrong:
            return answers
        # What a round has no time for was asked in the one before.
        said_last |= {name: said for name, said in wrong.items() if said != _NOT_ASKED}
        if time.monotonic() >= end:
            name = next((each for each in wrong if each in said_last), next(iter(wrong)))
            said = said_last.get(name, _NOT_ASKED)
            wanted = "the addresses of kubedns"
            raise NamesUnanswered(
                f"the resolver of this host does not give {wanted}: {name}: {said}",
                hint="all files are as they were before; `journalctl -u dnsmasq` may say more",
            )
        time.sleep(_PAUSE_S)


def _ask(
    entries: Sequence[kubedns.Entry], end: float
) -> Iterator[tuple[kubedns.Entry, str | None]]:
    """As every program asks: the C library, which reads resolv.conf anew when that changes.

    A name for which there is nobody may take it many seconds: from `end` on none is begun.
    """
    for entry in entries:
        if entry.is_asked:
            yield entry, None
        elif time.monotonic() >= end:
            yield entry, _NOT_ASKED
        else:
            yield entry, _look_up(entry)


def _look_up(entry: kubedns.Entry) -> str:
    family = socket.AF_INET if entry.address.version == 4 else socket.AF_INET6
    try:
        found = socket.getaddrinfo(f"{entry.name}.", None, family, socket.SOCK_STREAM)
    except OSError as error:
        return f"no address ({error.strerror})"
    addresses = {str(each[4][0]) for each in found}
    return "" if str(entry.address) in addresses else f"answered by {', '.join(sorted(addresses))}"
