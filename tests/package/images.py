"""Base images: a minimal Debian per release, from which the test machines are booted.

An image is a directory that is only ever a lower layer of an overlay, so that it is built once
and shared by every machine and build. Its name carries a hash of the recipe: a changed recipe
gives a new image, and an interrupted build gives none. Nothing of the product is in it: the
product's dependencies come to a machine by apt, as they do for a user.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.package import overlay

RELEASES = ("bookworm", "trixie")

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "nftables",
    "python3",
    "ca-certificates",
    "openssh-server",
    "openssh-client",
    "curl",
    "procps",
    "util-linux",
    "netbase",
)

# A mirror frozen in time serves Release files whose validity has ended; signatures still count.
APT_OPTIONS = (
    'Acquire::Check-Valid-Until "false"',
    'Acquire::Check-Date "false"',
    'Acquire::Languages "none"',
    'APT::Install-Recommends "false"',
)

HOOKS = (
    # A machine identity or host key that is in the image would be the same in every machine.
    'rm -f "$1/var/lib/dbus/machine-id" "$1"/etc/ssh/ssh_host_*; : > "$1/etc/machine-id"',
    # Test machines are users' machines: their apt installs recommended packages.
    'rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/resolv.conf" "$1/etc/hostname"',
    # Timers that would start apt in the middle of a test.
    'chroot "$1" systemctl mask -q apt-daily.timer apt-daily-upgrade.timer',
)


@dataclass(frozen=True)
class Recipe:
    """Everything an image depends on but the mirror's contents."""

    suite: str
    packages: tuple[str, ...] = PACKAGES
    apt_options: tuple[str, ...] = APT_OPTIONS
    hooks: tuple[str, ...] = HOOKS

    @property
    def key(self) -> str:
        """A short name that differs for different recipes."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:12]


def mirror() -> str:
    """Return the Debian mirror that this machine's own apt uses."""
    fields = ["--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"]
    addresses = overlay.run_checked(["apt-get", "indextargets", *fields]).split()
    return addresses[0] if addresses else "http://deb.debian.org/debian"


def image(suite: str) -> Path:
    """Return the image of a release, building it if there is none; raises CommandFailed."""
    recipe = Recipe(suite)
    name = f"image-{suite}-{recipe.key}"
    target = overlay.CACHE / name
    with overlay.locked(target):
        if not target.is_dir():
            with overlay.finished(target) as draft:
                _build(recipe, draft)
    return target


def _build(recipe: Recipe, directory: Path) -> None:
    options = [f"--aptopt={option}" for option in recipe.apt_options]
    options += [f"--customize-hook={hook}" for hook in recipe.hooks]
    options += [f"--include={','.join(recipe.packages)}"]
    fixed = ["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]
    overlay.run_checked(["mmdebstrap", *fixed, *options, recipe.suite, directory, mirror()])


def layer(suite: str, *packages: str) -> Path:
    """Return a layer with more packages on top of an image, making it if there is none."""
    recipe = f"{Recipe(suite).key} {packages}"
    name = f"layer-{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    target = overlay.CACHE / name
    with overlay.locked(target):
        if not target.is_dir():
            with overlay.scratch(image(suite)) as root:
                configuration = root.upper / "etc/apt/apt.conf.d/50tests"
                configuration.parent.mkdir(parents=True)
                configuration.write_text("".join(f"{option};\n" for option in APT_OPTIONS))
                root.run("apt-get", "-q", "update", network=True)
                root.run("apt-get", "-q", "-y", "install", *packages, network=True)
                # As in the image, a machine's apt is to be a user's.
                configuration.unlink()
                root.run("sh", "-c", "apt-get clean; rm -r /var/lib/apt/lists/*")
                root.upper.rename(target)
    return target


def main() -> None:
    """Build every image that is missing and print where they are."""
    for suite in RELEASES:
        sys.stdout.write(f"{image(suite)}\n")


if __name__ == "__main__":
    main()
