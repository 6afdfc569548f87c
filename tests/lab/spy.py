"""A program of an ordinary user who looks into every process that it may, in a loop.

Its argument is a pid: only that process and those below it count. It says "ready", and then one
line with each thing that it could open: memory, or a file that the process has open, with what is
in it.
"""

SCRIPT = """
import os, sys
top = sys.argv[1]

def is_below(pid):
    while pid not in ("0", "1", str(os.getpid())):
        if pid == top:
            return True
        with open(f"/proc/{pid}/stat") as stat:
            pid = stat.read().rpartition(")")[2].split()[1]
    return False

def look(pid):
    if not is_below(pid):
        return
    for number in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{number}").startswith("/memfd:"):
            with open(f"/proc/{pid}/fd/{number}", "rb") as found:
                print("read", pid, number, found.read(), flush=True)
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
    print("memory", pid, flush=True)

print("ready", flush=True)
while True:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            look(pid)
        except OSError:
            pass
"""
