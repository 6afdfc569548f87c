"""What inotify(7) says, as values. It loads nothing, since the secret server has to stay small."""

import os
import struct

# struct inotify_event: wd, mask, cookie, length of the name.
_EVENT = struct.Struct("iIII")


class Event:
    """What happened to the directory of a watch, or to the entry `name` in it."""

    __slots__ = ("mask", "name", "watch")

    def __init__(self, watch: int, mask: int, name: str) -> None:
        """Hold what inotify(7) says."""
        self.watch, self.mask, self.name = watch, mask, name


def parse(data: bytes) -> list[Event]:
    """The events of one read from the descriptor, in their order."""
    found = []
    at = 0
    while at < len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, at)
        begin = at + _EVENT.size
        at = begin + length
        found.append(Event(watch, mask, os.fsdecode(data[begin:at].rstrip(b"\0"))))
    return found
