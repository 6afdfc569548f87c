"""Whether a process is there."""

from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether a process is there that is not a zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
