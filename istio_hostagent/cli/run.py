"""Be the agent of this network namespace, in the foreground, until SIGTERM.

Reads hostagent.env, cluster.env and sidecar.env, joins the mesh when they allow it, watches them,
and keeps redirection, certificate and proxy as they should be. SIGHUP reads the files again.
Outside systemd SIGTERM takes the rules out and a crash keeps them.
"""

import logging
import os

from ..agent import app
from . import log
from .options import Option, Values

OPTIONS = (Option("debug", "log each step"),)


def execute(values: Values) -> int:
    """Run until told to stop."""
    log.set_up(logging.DEBUG if values["debug"] else logging.INFO)
    app.run(os.environ)
    return 0
