"""Units of systemd and control groups by path, as keys name them: whose traffic is captured.

Not here: which of them there are now (`host.controlgroups`). A unit is given by its full name, or
as systemctl(1) takes it, without `.service`; a group by its path, as /proc/PID/cgroup has it.
Source: systemd.unit(5), cgroups(7).
"""

import re

from . import fields

# Those with processes; the others (timers, targets …) have no control group.
_KINDS = ("service", "slice", "scope", "socket", "mount", "swap")
_WITHOUT_PROCESSES = ("automount", "device", "path", "target", "timer")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+")
_MAX_NAME = 255  # UNIT_NAME_MAX
# More than the kernel's own limit (xt_cgroup: 512 bytes; nft_socket: 255 levels) is of no use.
_MAX_PATH = 511
_MAX_LEVELS = 250
_MOUNT_POINT = "/sys/fs/cgroup"


def parse_units(text: str) -> tuple[str, ...]:
    """Names of units and paths of control groups between commas; paths begin with `/`.

    >>> parse_units("cron, backup.slice, /system.slice/app.service/")
    ('cron.service', 'backup.slice', '/system.slice/app.service')
    """
    return tuple(
        dict.fromkeys(
            _parse_path(item) if item.startswith("/") else _parse_unit(item)
            for item in _split(text)
        )
    )


def _split(text: str) -> list[str]:
    return [item for item in (each.strip() for each in text.split(",")) if item]


def _parse_unit(name: str) -> str:
    shown = fields.show(name)
    if not _UNIT.fullmatch(name) or name.startswith("."):
        raise ValueError(f"{shown} is neither the name of a unit nor a path")
    stem, _, kind = name.rpartition(".")
    if kind in _WITHOUT_PROCESSES and stem:
        raise ValueError(f"{shown} has no processes: name the unit that it starts")
    if kind not in _KINDS or not stem:
        stem, kind = name, "service"
    if len(stem) + 1 + len(kind) > _MAX_NAME:
        raise ValueError(f"{shown} is longer than the name of a unit can be")
    if stem.endswith("@"):
        raise ValueError(f"{shown} is a template: name an instance, or the slice that has all")
    if (stem, kind) == ("-", "slice"):
        raise ValueError(f"{shown} has every process of this host")
    return f"{stem}.{kind}"


def _parse_path(path: str) -> str:
    shown = fields.show(path)
    parts = [part for part in path.split("/") if part]
    if path == _MOUNT_POINT or path.startswith(f"{_MOUNT_POINT}/"):
        raise ValueError(f"{shown}: write the path below {_MOUNT_POINT}, as in /proc/PID/cgroup")
    if not path.isprintable() or {" ", '"'} & {*path} or {".", ".."} & {*parts}:
        raise ValueError(f"{shown} is not the path of a control group")
    if not parts:
        raise ValueError(f"{shown} has every process of this host")
    made = "/" + "/".join(parts)
    if len(made.encode()) > _MAX_PATH or len(parts) > _MAX_LEVELS:
        raise ValueError(f"{shown} is longer than the path of a control group can be")
    return made
