"""The users and groups that the files of this host name (passwd(5), group(5)).

Not those of a directory service: asking one may block for as long as the network is away.
"""

from collections.abc import Iterator

PASSWD, GROUP = "/etc/passwd", "/etc/group"
# Names and numbers are all that is kept: a host has some dozens.
_MOST = 10_000


def read_users() -> tuple[tuple[str, int, int], ...]:
    """Give name, uid and gid of each user; none where the file cannot be read."""
    found: dict[str, tuple[str, int, int]] = {}
    for fields in _read(PASSWD):
        if len(fields) >= 4 and fields[2].isdecimal() and fields[3].isdecimal():
            # Of two with one name the first counts, as for the C library.
            found.setdefault(fields[0], (fields[0], int(fields[2]), int(fields[3])))
    return tuple(found.values())


def read_groups() -> tuple[tuple[str, int], ...]:
    """Give name and gid of each group; none where the file cannot be read."""
    found: dict[str, tuple[str, int]] = {}
    for fields in _read(GROUP):
        if len(fields) >= 3 and fields[2].isdecimal():
            found.setdefault(fields[0], (fields[0], int(fields[2])))
    return tuple(found.values())


def _read(path: str) -> Iterator[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines):
                if number >= _MOST:
                    return
                yield line.rstrip("\n").split(":")
    except OSError:
        return
