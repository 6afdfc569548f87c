"""Where the libraries of others lie, for an interpreter that was started without them (`-S`).

Not the site module: it also runs what lies there in .pth files and in sitecustomize.py. That takes
3 ms of every process and up to 0.5 MB of the resident one, and root runs only what it needs.
"""

import sys

# As site gives them on Debian, in its order.
_DIRECTORIES = (
    f"/usr/local/lib/python{sys.version_info.major}.{sys.version_info.minor}/dist-packages",
    "/usr/lib/python3/dist-packages",
)


def add() -> None:
    """Let imports find them, behind everything else."""
    sys.path.extend(each for each in _DIRECTORIES if each not in sys.path)
