"""What everybody may read, in memory."""

import errno
import os
from typing import Any


class FakePublished:
    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None
        self.writes = 0
        self.is_full = False

    def write(self, state: dict[str, Any]) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.state = state
        self.writes += 1

    def remove(self) -> None:
        self.state = None
