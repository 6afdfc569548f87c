"""The program from its first line to its exit, as a checkout and as the installed command.

Only the resident uses libraries besides Python's own. The installed command starts without them
(`python3 -S`), since looking for them costs every verb 3 ms, and adds them here for the resident.
"""

import importlib
import os
import sys
from typing import NoReturn

from ..host import garbage, libraries

RESIDENT = "run"


def execute() -> NoReturn:
    """Perform the verb of the command line and end the process with its status."""
    if sys.argv[1:2] != [RESIDENT]:
        garbage.never_collect()
    elif sys.flags.no_site:
        libraries.add()
    status: int = importlib.import_module(".main", __package__).main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Every effect is done and every file closed: taking the interpreter down is work for nobody.
    os._exit(status)
