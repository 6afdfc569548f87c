"""Which paths lie on a file system that may never answer: one of a network, or in user space.

Whoever asks for such a file sleeps until its server answers, and may not even be killed while it
does. So it is found out beforehand, step by step, without a question to that file system.
A directory in which only istio-proxy is to look (`closed`) is treated in the same way.
"""

import errno
import os
import select

_TABLE = "/proc/self/mountinfo"
# What the kernel answers by itself. Anything that is not known to be local is not.
_LOCAL = frozenset(
    (
        *("aufs", "bcachefs", "btrfs", "cramfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs"),
        *("iso9660", "jfs", "minix", "msdos", "nilfs2", "ntfs3", "overlay", "reiserfs", "udf"),
        *("squashfs", "vfat", "xfs", "zfs", "ramfs", "rootfs", "tmpfs", "devtmpfs", "hugetlbfs"),
        *("bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "mqueue"),
        *("nsfs", "proc", "pstore", "securityfs", "sysfs", "tracefs"),
    )
)
# The longest chain of symbolic links that the kernel follows (path_resolution(7)).
_MAX_SYMLINKS = 40


class Mounts:
    """The mount points of this process's mount namespace, as they are now."""

    def __init__(self) -> None:
        """Open the kernel's table; raises OSError."""
        self._table = os.open(_TABLE, os.O_RDONLY | os.O_CLOEXEC)
        # The kernel tells a poll that the table has changed since the last one (proc(5)).
        self._changed = select.poll()
        self._changed.register(self._table, select.POLLPRI)
        self._remote = self._read()
        self.closed: frozenset[str] = (
            frozenset()
        )  # without links on the way, as far as they are root's

    def may_hang(self, path: str, *, follows_link: bool = True) -> bool:
        """Whether looking at `path` is not for this process; `follows_link`: where it leads to."""
        return self._leads_to(path, self._read_remote() | self.closed, follows_link=follows_link)

    def is_remote(self, path: str) -> bool:
        """Whether `path` leads to such a file system, whoever is to look there."""
        return self._leads_to(path, self._read_remote(), follows_link=True)

    def _read_remote(self) -> frozenset[str]:
        if self._changed.poll(0):
            self._remote = self._read()
        return self._remote

    def _leads_to(self, path: str, barred: frozenset[str], *, follows_link: bool) -> bool:
        """Whether any of these is on the way, which is not followed any further."""
        if not barred:
            return False
        pending = path.split("/")
        here = "/"
        links = 0
        while pending and links <= _MAX_SYMLINKS:
            part = pending.pop(0)
            if part in ("", "."):
                continue
            here = os.path.dirname(here) if part == ".." else os.path.join(here, part)
            if here in barred:
                return True
            if not pending and not follows_link:
                return False
            try:
                target = os.readlink(here)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    continue  # no link
                return False  # nothing there, or no way to it
            links += 1
            pending = target.split("/") + pending
            here = "/" if target.startswith("/") else os.path.dirname(here)
        return False

    def _read(self) -> frozenset[str]:
        """Where something is mounted that may hang; `/` never counts, all programs lie there."""
        os.lseek(self._table, 0, os.SEEK_SET)
        parts = []
        while part := os.read(self._table, 65536):
            parts.append(part)
        top: dict[bytes, bool] = {}
        for line in b"".join(parts).splitlines():
            before, _, behind = line.partition(b" - ")
            # Of several mounts on one point the last is the one that is seen.
            top[before.split()[4]] = behind.split()[0].decode() not in _LOCAL
        return frozenset(_unescape(point) for point, is_remote in top.items() if is_remote) - {"/"}


def _unescape(point: bytes) -> str:
    """Blanks and backslashes are written as three octal digits."""
    first, *others = point.split(b"\\")
    text = first + b"".join(bytes([int(each[:3], 8)]) + each[3:] for each in others)
    return os.fsdecode(text)
