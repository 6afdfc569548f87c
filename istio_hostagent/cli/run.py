"""Be the agent of this network namespace, in the foreground, until SIGTERM.

Reads hostagent.env, cluster.env and sidecar.env, joins the mesh when they allow it, watches them,
and keeps redirection, certificate and proxy as they should be. SIGHUP reads the files again.
Outside systemd SIGTERM takes the rules out and a crash keeps them.
"""

import importlib
import logging
import os
from typing import Any

from ..agent import app
from ..host import control
from . import log
from .options import Option, Values

logger = logging.getLogger(__name__)

OPTIONS = (Option("debug", "log each step"),)


def execute(values: Values) -> int:
    """Run until told to stop."""
    log.set_up(logging.DEBUG if values["debug"] else logging.INFO)
    if control.has(app.UNCONFIRMED):
        # Loaded only here: hardly any start needs it.
        confirm: Any = importlib.import_module("..agent.oneshot.confirm", __package__)
        if confirm.end():
            logger.warning("rules that nobody had confirmed were taken back before the start")
    app.run(os.environ)
    return 0
