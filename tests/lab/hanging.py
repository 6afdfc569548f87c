"""A file system that answers as long as it is told to, like NFS whose server goes away.

    with HangingMount(directory) as mount:
        ...  # whoever touches a path below `directory` sleeps in state D, SIGKILL or not

    with HangingMount(directory, shows=source) as mount:
        ...  # the files of `source` are there, to be read and executed
        mount.hang()

Who was told to die meanwhile ends with the mount: its server is a process of its own, and with its
descriptor of /dev/fuse the kernel gives up all questions (fuse(4), linux/fuse.h).
"""

import contextlib
import ctypes
import enum
import errno
import os
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path

_HEADER = struct.Struct("=IIQQIIII")  # length, operation, number, node, uid, gid, pid
_ANSWER = struct.Struct("=IiQ")  # length, -errno, number
_INIT_ANSWER = struct.Struct("=IIIIHHII8I")
_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_ROOT = 1
_DETACH = 2  # MNT_DETACH
_START_TIME_S = 60.0


class Ask(enum.IntEnum):
    """What the kernel asks: those that are answered, and those that want no answer."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    ACCESS = 34
    INTERRUPT = 36
    BATCH_FORGET = 42


_UNANSWERED = (Ask.FORGET, Ask.INTERRUPT, Ask.BATCH_FORGET)


def missing() -> str:
    """Why such a mount cannot be made here; empty if it can."""
    return "" if os.geteuid() == 0 and os.path.exists("/dev/fuse") else "needs root and /dev/fuse"


class HangingMount:
    """Mounted as long as the context lasts."""

    def __init__(self, directory: Path, *, shows: Path | None = None) -> None:
        """Mount there; it hangs from the start unless it `shows` the files of a directory."""
        self.directory = directory
        words = [sys.executable, "-m", "tests.lab.hanging", str(directory), str(shows or "")]
        self._server = subprocess.Popen(
            words, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        is_said, _, _ = select.select([self._server.stdout], [], [], _START_TIME_S)
        if not is_said or not self._server.stdout.readline():
            self.close()
            raise AssertionError(f"nothing could be mounted on {directory}")

    def __enter__(self) -> "HangingMount":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def hang(self) -> None:
        """Answer nothing any more."""
        self._server.send_signal(signal.SIGUSR1)

    def close(self) -> None:
        """End the server, and with it every wait for an answer."""
        self._server.kill()
        self._server.wait(60)
        if self._server.stdout is not None:
            self._server.stdout.close()
        ctypes.CDLL(None).umount2(os.fsencode(self.directory), _DETACH)


def _serve(directory: str, shown: str) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hanging", directory.encode(), b"fuse.hanging", 0, options.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
    paths = {_ROOT: shown}
    told: list[int] = [] if shown else [0]  # to be silent
    signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
    while True:
        question = os.read(device, 1 << 18)
        length, operation, number, node, *_ = _HEADER.unpack_from(question)
        # A question that was taken keeps who asked it, even from dying.
        if operation in _UNANSWERED or (operation != Ask.INIT and told):
            continue
        try:
            data = _answer(operation, node, question[_HEADER.size : length], paths)
            code = 0
        except OSError as error:
            data, code = b"", -(error.errno or errno.EIO)
        with contextlib.suppress(FileNotFoundError):  # who asked is gone
            os.write(device, _ANSWER.pack(_ANSWER.size + len(data), code, number) + data)
        if operation == Ask.INIT:
            print("mounted", flush=True)


def _answer(operation: int, node: int, body: bytes, paths: dict[int, str]) -> bytes:
    match operation:
        case Ask.INIT:
            return _INIT_ANSWER.pack(7, 31, 1 << 17, 0, 12, 10, 4096, 1, *[0] * 8)
        case Ask.LOOKUP:
            path = os.path.join(paths[node], os.fsdecode(body.rstrip(b"\0")))
            inode = os.stat(path).st_ino
            paths[inode] = path
            return struct.pack("=QQQQII", inode, 0, 0, 0, 0, 0) + _attributes(path)
        case Ask.GETATTR:
            return struct.pack("=QII", 0, 0, 0) + _attributes(paths[node])
        case Ask.OPEN:
            return struct.pack("=QII", 0, 0, 0)
        case Ask.READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            return Path(paths[node]).read_bytes()[offset : offset + size]
        case Ask.RELEASE | Ask.FLUSH | Ask.ACCESS:
            return b""
        case _:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _attributes(path: str) -> bytes:
    found = os.stat(path)
    seconds, rest = divmod(found.st_mtime_ns, 10**9)
    times = (seconds,) * 3 + (rest,) * 3
    owner = (found.st_mode, 1, found.st_uid, found.st_gid, 0, 4096, 0)
    return _ATTRIBUTES.pack(found.st_ino, found.st_size, found.st_blocks, *times, *owner)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
