"""Build the Debian package in a Debian 13 root, and have lintian judge it.

    /usr/bin/python3 -m tests.package.build OUTDIR

prints the path of the .deb. The build has no network: what it needs is in a layer of build
dependencies that is made once per list of dependencies. Debian 13 builds for both releases,
since its debhelper puts units where both look and its lintian knows that.
"""

import argparse
import hashlib
import re
import shutil
import sys
from pathlib import Path

from tests.package import images, overlay

SUITE = "trixie"
SOURCE = Path(__file__).resolve().parents[2]
BUILD = "/build/source"
TOOLS = ("build-essential", "lintian")
LINTIAN = ("lintian", "--allow-root", "-E", "-I", "--pedantic")
FAIL_ON = "--fail-on=error,warning,info,pedantic"

# Left behind by tools in a working tree; dot files at the top are the repository's own.
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.deb", "*.pyc")
BUILT = re.compile(r".*\.(deb|dsc|changes|buildinfo|tar\.\w+)")


def build_layer(source: Path) -> Path:
    """Return the layer with the build dependencies of `source`, on top of the image."""
    control = (source / "debian/control").read_text()
    (wanted,) = re.findall(r"^Build-Depends:(.*(?:\n[ \t].*)*)", control, re.MULTILINE)
    recipe = f"{images.Recipe(SUITE).key} {TOOLS} {wanted}"
    name = f"build-{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    target = overlay.CACHE / name
    with overlay.locked(target):
        if not target.is_dir():
            _install_build_dependencies(control, target)
    return target


def _install_build_dependencies(control: str, target: Path) -> None:
    lines = [f"{option};" for option in images.APT_OPTIONS]
    with overlay.scratch(images.image(SUITE)) as root:
        (root.upper / "wanted/debian").mkdir(parents=True)
        (root.upper / "wanted/debian/control").write_text(control)
        (root.upper / "etc/apt/apt.conf.d").mkdir(parents=True)
        (root.upper / "etc/apt/apt.conf.d/50tests").write_text("\n".join(lines))
        root.run("apt-get", "-q", "update", network=True)
        root.run("apt-get", "-q", "-y", "install", *TOOLS, network=True)
        root.run("apt-get", "-q", "-y", "build-dep", "/wanted", network=True)
        root.run("sh", "-c", "apt-get clean; rm -r /wanted /var/lib/apt/lists/*")
        root.upper.rename(target)


def build(source: Path, output: Path) -> Path:
    """Build `source` into `output`; return the .deb; raises CommandFailed, also for a tag."""
    with overlay.scratch(build_layer(source), images.image(SUITE)) as root:
        copied = root.upper / BUILD.lstrip("/")
        copied.mkdir(parents=True)
        for entry in sorted(source.iterdir()):
            if entry.name.startswith(".") or entry.name in {"build", "dist"}:
                continue
            if entry.is_dir():
                shutil.copytree(entry, copied / entry.name, ignore=IGNORED, symlinks=True)
            else:
                shutil.copy(entry, copied)
        root.run("env", "-C", BUILD, "dpkg-buildpackage", "-us", "-uc")
        root.run(
            "sh", "-ec", f'cd {Path(BUILD).parent}; exec "$@" *.changes', "-", *LINTIAN, FAIL_ON
        )
        output.mkdir(parents=True, exist_ok=True)
        made = [path for path in copied.parent.iterdir() if BUILT.fullmatch(path.name)]
        for path in made:
            shutil.move(path, output / path.name)
    (package,) = (output / path.name for path in made if path.suffix == ".deb")
    return package


def main() -> int:
    """Build this checkout into the directory that is named on the command line."""
    parser = argparse.ArgumentParser(prog="tests.package.build", description=__doc__)
    parser.add_argument("outdir", type=Path, help="where the package and its source go")
    try:
        package = build(SOURCE, parser.parse_args().outdir)
    except overlay.CommandFailed as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    sys.stdout.write(f"{package}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
