"""The guard table as a file for nft(8): what early boot loads before any interface is up.

Loading it twice gives one table: the text replaces what is there, in one transaction. Ids are
numeric, since no user database may be reachable that early.
"""

from . import model, nft


def render_guard(desired: model.Ruleset) -> str:
    """Return the file's text; without a guard in `desired` it only removes an old one."""
    name = model.GUARD_TABLE
    texts = [nft.render_nft(table) for table in desired.tables if table.name == name]
    return "".join([f"table inet {name}\ndelete table inet {name}\n", *texts])
