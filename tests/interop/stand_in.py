"""Hosts that ssh and scp of a stand-in lead to: each a private view of this machine's files.

    with Hosts(directory) as hosts:      # put hosts.programs in front of PATH
        ...
        hosts.text("vm1", "/etc/hosts")

What is changed on a host lies in an overlay of its own; apt, dpkg, systemctl and the agent are
scripts that write down how they are called. The real thing is tried on booted machines.
"""

from pathlib import Path

# Of istio-proxy on every host.
UID = 64535
_SSH = r"""#!/bin/sh
echo "ssh $*" >>%(directory)s/commands
while [ $# -gt 0 ]; do
    case $1 in -o) shift 2 ;; -q) shift ;; *) break ;; esac
done
host=${1#*@}; shift
[ ! -e %(directory)s/$host.down ] || {
    echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255
}
[ ! -e %(directory)s/$host.refused ] || {
    echo "$host: Permission denied (publickey)." >&2; exit 255
}
while [ -e %(directory)s/$host.hangs ]; do sleep 0.1; done
if [ -e %(directory)s/$host.breaks ] && case "$*" in *install-on-host*) true ;; *) false ;; esac; then
    rm %(directory)s/$host.breaks
    echo "Connection to $host closed by remote host." >&2; exit 255
fi
host=$host exec unshare --mount sh -euc '
    place=%(directory)s/$host
    for part in etc var/lib run; do
        mkdir -p $place/$part $place/.work/$part
        mount -t overlay overlay -o lowerdir=/$part,upperdir=$place/$part,workdir=$place/.work/$part /$part
    done
    grep -q ^istio-proxy: /etc/passwd || {
        echo istio-proxy:x:%(uid)s:%(uid)s::/:/bin/false >>/etc/passwd
        echo istio-proxy:x:%(uid)s: >>/etc/group
    }
    mkdir -p /run/systemd/system $place/home
    [ ! -e %(directory)s/$host.full ] || {
        mount -t tmpfs -o size=4k,mode=755 tmpfs /var/lib
        dd if=/dev/zero of=/var/lib/other bs=4k count=1 2>/dev/null
    }
    cd $place/home
    HOME=$place/home PATH=%(directory)s/on-host:$PATH exec sh -c "$1"
' sh "$*"
"""
_SCP = r"""#!/bin/sh
echo "scp $*" >>%(directory)s/commands
while [ $# -gt 0 ]; do
    case $1 in -o) shift 2 ;; -q) shift ;; *) break ;; esac
done
for target; do :; done
where=${target#*@}; host=${where%%:*}; path=${where#*:}
while [ $# -gt 1 ]; do
    stat -c '%%n %%a' "$1" >>%(directory)s/modes
    cp "$1" %(directory)s/$host/home/$path
    shift
done
"""
_RECORDED = r"""#!/bin/sh
echo "$(basename "$0") $*" >>%(directory)s/on-host-calls
%(then)s
"""
_ON_HOST = {
    "apt-get": "",
    "systemctl": "",
    "dpkg-query": "[ ! -e %(directory)s/installed ] || printf 'ii 1.0'",
    "istio-hostagent": (
        "case $1 in wait) [ ! -e %(directory)s/stays-out ] || "
        "{ echo 'not in the mesh: the CA does not answer' >&2; exit 75; }; "
        "echo 'in the mesh, proven' ;; cert) test -e %(directory)s/holds ;; esac"
    ),
}


class Hosts:
    """The programs and what hosts have. Any name is a host."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = directory / "programs"
        for place in (self.programs, directory / "on-host"):
            place.mkdir(parents=True)
        names = {"directory": str(directory), "uid": str(UID)}
        self._script(self.programs / "ssh", _SSH % names)
        self._script(self.programs / "scp", _SCP % names)
        for name, then in _ON_HOST.items():
            text = _RECORDED % {**names, "then": then % names if "%" in then else then}
            self._script(directory / "on-host" / name, text)

    def make(self, host: str, trouble: str) -> None:
        """Have a host be `down`, `refused`, `full`, one that `hangs`, or `breaks` a connection."""
        (self.directory / f"{host}.{trouble}").touch()

    def mend(self, host: str, trouble: str) -> None:
        """End that."""
        (self.directory / f"{host}.{trouble}").unlink(missing_ok=True)

    def path(self, host: str, path: str) -> Path:
        """Return where a file of a host is."""
        return self.directory / host / path.lstrip("/")

    def text(self, host: str, path: str) -> str:
        """Return a file of a host."""
        return self.path(host, path).read_text()

    def left(self, host: str) -> list[str]:
        """Return what lies where one logs in."""
        return sorted(each.name for each in self.path(host, "home").iterdir())

    def commands(self) -> list[str]:
        """Return every call of ssh and scp."""
        return self._lines("commands")

    def calls(self) -> list[str]:
        """Return every call of a program on a host."""
        return self._lines("on-host-calls")

    def _lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)
