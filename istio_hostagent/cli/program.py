"""The program from its first line to its exit, as a checkout and as the installed command."""

import gc
import importlib
import os
import sys
from typing import NoReturn


def execute() -> NoReturn:
    """Perform the verb of the command line and end the process with its status."""
    # A tenth of a verb's time, for memory that ends with it. The resident process collects: what
    # loading leaves behind would stay with it for ever.
    if sys.argv[1:2] != ["run"]:
        gc.disable()
    status: int = importlib.import_module(".main", __package__).main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Every effect is done and every file closed: taking the interpreter down is work for nobody.
    os._exit(status)
