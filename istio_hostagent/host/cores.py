"""No core file of a process that holds a key for a while, at next to no cost.

`secrecy` keeps the memory of one that lives long from others as well, for ctypes, which is a
tenth of what a short-lived worker takes.
"""

import resource

# More than nothing, and less than any core has: no file is written, and with 1, other than with 0,
# no program such as systemd-coredump is started (linux fs/coredump.c, "RLIMIT_CORE set to 1").
_NONE = 1


def forbid() -> None:
    """From now on neither this process nor one that it starts leaves a core."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = _NONE if most == resource.RLIM_INFINITY else min(_NONE, most)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
