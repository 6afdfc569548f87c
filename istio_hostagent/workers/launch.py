"""Start one worker in an isolated interpreter: `python3 -IS launch.py MODULE`.

-I keeps the caller's directory and environment out of the module search path; the package's own
parent directory is put there instead, so that a checkout and an installed package work alike.
"""

import importlib
import os
import sys

if __name__ == "__main__":
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[0:0] = [os.path.dirname(package)]
    name = os.path.basename(package)
    importlib.import_module(f"{name}.host.garbage").never_collect()
    importlib.import_module(f"{name}.host.libraries").add()
    importlib.import_module(f"{name}.workers.{sys.argv[1]}").main()
    sys.stdout.flush()
    # Every effect is done: taking the interpreter down is work for nobody.
    os._exit(0)
