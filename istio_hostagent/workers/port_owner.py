"""Find out who has a socket, for a message.

In: {"uid", "inode"}. Out: {"user", "pid", "program"}: the name of the user, "" if there is none;
0 and "" if no process is seen to have it. A worker, since names of users may be asked for over the
network, and since it acts as others to look into their processes.
"""

import json
import pwd
import sys

from ..host import socketowner


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    pid, program = socketowner.find_process(request["inode"])
    json.dump({"user": _name(request["uid"]), "pid": pid, "program": program}, sys.stdout)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


if __name__ == "__main__":
    main()
