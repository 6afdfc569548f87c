"""The memory that an Envoy has in common with the one that it takes over from.

It is a file of /dev/shm named after a number (`--base-id`), made by the first of them. Anybody may
make files there: one of somebody else's would keep Envoy from starting, so another number is taken
then. It is marked while an Envoy is being prepared, and one that ends meanwhile leaves the mark,
which keeps each that comes later from taking over.
Source: Envoy, source/server/hot_restart_impl.{h,cc} (SharedMemory, attachSharedMemory()).
"""

import binascii
import os
import stat
import struct

DIRECTORY = "/dev/shm"  # noqa: S108 - where shm_open(3) puts it
# Envoy multiplies it by ten, and takes the product as a number of 32 bits with a sign.
_MOST_ID = 200_000_000
_TRIES = 16
# size, version, two mutexes, marks: 64-bit numbers but for the mutexes (40 bytes each).
_HEAD = struct.Struct("=QQ")
_SIZE, _VERSION, _MARKS_AT = 104, 11, 96
_PREPARING = 1


def is_usable() -> bool:
    """Whether any user may make some; a container may have none, or none to write to."""
    try:
        status, system = os.stat(DIRECTORY), os.statvfs(DIRECTORY)
    except OSError:
        return False
    is_open = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IWOTH
    return bool(is_open and not system.f_flag & os.ST_RDONLY and system.f_bavail)


def find_base_id(name: str, uid: int) -> int:
    """Give the number for whatever goes by this name, always the same one unless it is taken.

    `uid`: whose memory it is to be. Numbers that nobody can foresee follow the first one: whoever
    took them all would keep Envoy from starting.
    """
    base_id = binascii.crc32(name.encode()) % _MOST_ID + 1
    for _ in range(_TRIES):
        try:
            if os.lstat(path_of(base_id)).st_uid == uid:
                break
        except OSError:
            break
        base_id = int.from_bytes(os.urandom(8)) % _MOST_ID + 1
    return base_id


def path_of(base_id: int) -> str:
    """Where it is."""
    return f"{DIRECTORY}/envoy_shared_memory_{base_id * 10}"


def remove(base_id: int, uid: int) -> None:
    """Remove it, if it is this user's, once nobody uses it; raises OSError."""
    path = path_of(base_id)
    if os.lstat(path).st_uid == uid:
        os.unlink(path)


def unmark(base_id: int) -> bool:
    """Let another Envoy take over although one has ended while it was being prepared.

    To be called by its user, while none is being prepared. Says whether it has the form that is
    known here; where it has another one nothing is changed. Raises OSError.
    """
    descriptor = os.open(path_of(base_id), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_size != _SIZE:
            return False
        if _HEAD.unpack(os.pread(descriptor, _HEAD.size, 0)) != (_SIZE, _VERSION):
            return False
        (marks,) = struct.unpack("=Q", os.pread(descriptor, 8, _MARKS_AT))
        os.pwrite(descriptor, struct.pack("=Q", marks & ~_PREPARING), _MARKS_AT)
        return True
    finally:
        os.close(descriptor)
