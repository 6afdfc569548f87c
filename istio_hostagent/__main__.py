"""`python3 -m istio_hostagent VERB` equals the installed `istio-hostagent VERB`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
