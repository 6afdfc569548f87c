"""`python3 -m istio_hostagent VERB` equals the installed `istio-hostagent VERB`."""

import gc
import os
import sys

# A tenth of a verb's time, for memory that ends with it. The resident process collects: what
# loading leaves behind would stay with it for ever.
if sys.argv[1:2] != ["run"]:
    gc.disable()

from .cli.main import main  # after the lines above, on purpose

if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Every effect is done and every file closed: taking the interpreter down is work for nobody.
    os._exit(status)
