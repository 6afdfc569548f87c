"""The verbs as people run them: fresh processes, beside nft(8) and the bare interpreter.

Each run of ours ends with a check that the verb did its work: its exit status, and that the next
`nft` finds the table to delete.
"""

from pathlib import Path

from tests.lab import netns

from . import cost, installs, rows, site

KEYS = ("apply", "apply-cpu", "apply-root", "apply-root-cpu", "verify")
ROUNDS = 15
VERIFY_ROUNDS = 7
_CLEAR = "delete table inet istio_hostagent\ndelete table inet istio_guard\n"
_BARE = [cost.PYTHON, "-c", "pass"]
_VERB = (cost.PYTHON, "-m", "istio_hostagent")


def measure(directory: Path) -> rows.Outcomes:
    """Rows apply, apply-root, their CPU, and verify. Raises NotMeasured, LabError."""
    clear = directory / "clear.nft"
    clear.write_text(_CLEAR)
    with (
        netns.Namespace("bench") as namespace,
        netns.Namespace("network") as network,
        site.Files(site.STANDARD) as packaged,
        site.Files(site.STANDARD, is_root_only=True) as root_only,
    ):
        netns.link(network, namespace, site.CLUSTER + "/24", "10.99.0.2/24")
        namespace.ip("route", "add", "default", "via", site.CLUSTER)
        return namespace.inside(lambda: _rounds(packaged, root_only, directory, clear))


def _rounds(
    packaged: site.Files, root_only: site.Files, directory: Path, clear: Path
) -> rows.Outcomes:
    listing = installs.write_standard(directory)
    names = ("packaged", "root", "nft", "bare")
    costs: dict[str, list[cost.Cost]] = {name: [] for name in names}
    for number in range(ROUNDS + 1):
        found = {}
        for name, files in (("packaged", packaged), ("root", root_only)):
            found[name] = cost.run([*_VERB, "apply", "--quiet"], files.environment)
            cost.run([cost.NFT, "-f", str(clear)])
        found["nft"] = cost.run([cost.NFT, "-f", str(listing)])
        cost.run([cost.NFT, "-f", str(clear)])
        found["bare"] = cost.run(_BARE)
        for name in names if number else ():
            costs[name].append(found[name])
    wall = {name: [each.wall_ms for each in found] for name, found in costs.items()}
    cpu = {name: [each.cpu_ms for each in found] for name, found in costs.items()}
    return {
        "apply": _beside(wall, "packaged"),
        "apply-cpu": _beside(cpu, "packaged"),
        "apply-root": _beside(wall, "root"),
        "apply-root-cpu": _beside(cpu, "root"),
        "verify": _verify(packaged),
    }


def _verify(files: site.Files) -> rows.Result | rows.Missing:
    """A run that finds something wrong ends with status 1, and spoils only this row."""
    pyroute2 = [cost.PYTHON, "-c", "import pyroute2"]
    ours: list[float] = []
    imports: list[float] = []
    try:
        cost.run([*_VERB, "apply", "--quiet"], files.environment)
        for _ in range(VERIFY_ROUNDS):
            ours.append(cost.run([*_VERB, "verify"], files.environment).wall_ms)
            imports.append(cost.run(pyroute2).wall_ms)
    except cost.NotMeasured as error:
        return rows.Missing(str(error))
    return rows.make_result(ours, {"python3 -c 'import pyroute2'": imports})


def _beside(found: dict[str, list[float]], name: str) -> rows.Result:
    peers = {"nft -f, a process": found["nft"], "python3 -c pass": found["bare"]}
    return rows.make_result(found[name], peers)
