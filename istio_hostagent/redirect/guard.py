"""The guard table as a file for nft(8): what early boot loads before any interface is up.

Loading it twice gives one table: the text replaces what is there, in one transaction. Ids are
numeric, since no user database may be reachable that early. Excluded units are not in it: none has
started by then. What they send to captured destinations is refused until the agent is there.
"""

from . import model, nft, units


def render_guard(desired: model.Ruleset) -> str:
    """Return the file's text; without a guard in `desired` it only removes an old one."""
    name = model.GUARD_TABLE
    guards = (table for table in units.without_units(desired).tables if table.name == name)
    texts = map(nft.render_nft, guards)
    return "".join([f"table inet {name}\ndelete table inet {name}\n", *texts])
