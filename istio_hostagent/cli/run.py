"""Be the agent of this network namespace, in the foreground, until SIGTERM.

Reads hostagent.env, cluster.env and sidecar.env, joins the mesh when they allow it, watches them,
and keeps redirection, certificate and proxy as they should be. SIGHUP reads the files again.
Outside systemd SIGTERM takes the rules out and a crash keeps them.
"""

import argparse
import logging
import os

from ..agent import app
from . import log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `run`."""
    parser.add_argument(
        "--descriptor-store",
        action="store_true",
        help="rules belong to a socket kept by the unit (FileDescriptorStoreMax=)",
    )
    parser.add_argument("--debug", action="store_true", help="log each step")


def execute(arguments: argparse.Namespace) -> int:
    """Run until told to stop."""
    log.set_up(logging.DEBUG if arguments.debug else logging.INFO)
    app.run(os.environ, has_store=arguments.descriptor_store)
    return 0
