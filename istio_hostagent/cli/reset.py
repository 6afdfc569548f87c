"""Remove everything that makes this machine one host of the mesh: for an image of it.

What the agent has made goes: certificates, the learned address, the accepted configuration, the
mark that this host has joined, what it has written for other programs. With --all its credentials
go, too: the token, and a key and certificate that somebody has put into OUTPUT_CERTS or PROV_CERT.
Configuration files stay. Refused while an agent runs here: systemctl stop istio-hostagent.
"""

import os

from . import answer
from .options import Option, Values

OPTIONS = (
    Option("all", "remove the token, and key and certificate of others, as well"),
    Option("quiet", "print nothing on success"),
)


def execute(values: Values) -> int:
    """Reset, and print what went and what is left."""
    answer.ask("reset")
    for line in answer.alone("reset", os.environ, takes_credentials=values["all"]):
        if not values["quiet"]:
            print(line)
    return 0
