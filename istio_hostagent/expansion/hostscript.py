"""The script that `mesh setup` runs on a host, as root: package, files, service.

It is copied into a directory of its own together with the files, and removes that directory when
it ends, however it does. Each file is replaced as a whole and only if it differs, so that running
it again finishes what an earlier run began, and changes nothing where that was all. A line that
begins with `step:` says what it is about to do, the last one what came of it.

The certificate that a host holds already (links into a directory of the agent's) stays, as long as
it fits: the agent renews it, and the one that is brought is older.
"""

NAME = "install-on-host"
DIRECTORY = ".istio-hostagent-setup"
STEP = "step: "

TEXT = r"""#!/bin/sh
# Puts this host into a mesh: see istio-hostagent-mesh(8).
set -eu
umask 022
wait_s=$1
cd "$(dirname "$0")"
here=$(pwd)
finish() {
    status=$?
    trap - EXIT
    cd /
    rm -rf "$here"
    exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

step() { echo "step: $*"; }
fail() { echo "$*" >&2; exit 1; }

# DIRECTORY: whose is the first directory on the way to it that is not root's, or root.
# Whoever owns one may put a link in the place of everything below it.
owner_on_way() (
    at= rest=$1/
    while [ -n "$rest" ]; do
        part=${rest%%/*} rest=${rest#*/}
        if [ -z "$part" ]; then continue; fi
        at=$at/$part
        if [ ! -e "$at" ] && [ ! -L "$at" ]; then break; fi
        owner=$(stat -c %U "$at")
        if [ "$owner" != root ]; then echo "$owner"; exit; fi
        if [ -L "$at" ]; then
            target=$(readlink "$at")
            if ! [ -e "$at" ]; then fail "$at is a link to what is not there"; fi
            case $target in /*) ;; *) target=${at%/*}/$target ;; esac
            at= rest=$target/$rest
        fi
    done
    echo root
)

# TARGET MODE OWNER, content on standard input: replace a file as a whole, if its content differs.
replace='
    set -eu
    if [ -f "$1" ] && cmp -s "$1" - <&3; then exit; fi
    mkdir -p "$(dirname "$1")"
    trap "rm -f \"\$1.new\"" EXIT
    rm -f "$1.new"
    umask 077
    set -C
    cat >"$1.new"
    if [ "$(id -un)" != "$3" ]; then chown "$3:$(id -g "$3")" "$1.new"; fi
    chmod "$2" "$1.new"
    mv -fT "$1.new" "$1"
'

# SOURCE TARGET MODE OWNER: as the owner of the place, so that no link leads root elsewhere.
put() {
    if [ ! -f "$1" ]; then return 0; fi
    writer=$(owner_on_way "$(dirname "$2")")
    case $writer in
        root) sh -c "$replace" put "$2" "$3" "$4" <"$1" 3<"$1" ;;
        "$4")
            setpriv --reuid "$4" --regid "$(id -g "$4")" --clear-groups \
                sh -c "$replace" put "$2" "$3" "$4" <"$1" 3<"$1"
            ;;
        *) fail "$2 is not written: a directory on the way belongs to $writer" ;;
    esac
}

apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >&2; }

command -v apt-get >/dev/null || fail 'this is no Debian: there is no apt-get'
[ -d /run/systemd/system ] || fail 'systemd does not run here'

# PACKAGE: its version, if it is installed.
held() {
    found=$(dpkg-query -W -f='${db:Status-Abbrev}${Version}' "$1" 2>/dev/null || :)
    case $found in ii*) echo "${found#ii }" ;; esac
}

set --
for each in ./*.deb; do
    if [ ! -f "$each" ]; then continue; fi
    version=$(dpkg-deb -f "$each" Version)
    if [ "$(held "$(dpkg-deb -f "$each" Package)")" != "$version" ]; then set -- "$@" "$each"; fi
done
if [ $# -gt 0 ]; then
    step installing what was brought
    apt update || :
    # _apt cannot read in here, and need not.
    apt -o APT::Sandbox::User=root install "$@"
fi
if [ -z "$(held istio-hostagent)" ]; then
    step installing istio-hostagent from the sources of apt
    apt update || :
    apt install istio-hostagent
fi

step writing files
holds_certificate=
if [ -L /etc/certs/key.pem ] && istio-hostagent cert >/dev/null 2>&1; then
    holds_certificate=yes
fi
if [ -z "$holds_certificate" ]; then
    put root-cert.pem /etc/certs/root-cert.pem 0644 istio-proxy
    put cert-chain.pem /etc/certs/cert-chain.pem 0644 istio-proxy
    put key.pem /etc/certs/key.pem 0600 istio-proxy
fi
put istio-token /run/secrets/tokens/istio-token 0600 istio-proxy
put mesh.yaml /etc/istio/config/mesh 0644 istio-proxy
if [ -s hosts ]; then
    name=$(awk '{ print $2; exit }' hosts)
    awk -v name="$name" '{ for (i = 2; i <= NF; i++) if ($i == name) next; print }' \
        /etc/hosts >hosts.new
    cat hosts >>hosts.new
    put hosts.new /etc/hosts 0644 root
fi
if [ -f kubedns ]; then
    if [ ! -d /etc/dnsmasq.d ]; then
        step installing dnsmasq
        apt update || :
        apt install dnsmasq
    fi
    if ! cmp -s kubedns /etc/dnsmasq.d/kubedns; then
        put kubedns /etc/dnsmasq.d/kubedns 0644 root
        step restarting dnsmasq
        systemctl restart dnsmasq || fail 'dnsmasq does not start: see journalctl -u dnsmasq'
    fi
fi
put sidecar.env /var/lib/istio/envoy/sidecar.env 0644 istio-proxy
# The last: with this file the host joins.
put cluster.env /var/lib/istio/envoy/cluster.env 0644 istio-proxy

step starting istio-hostagent
systemctl start istio-hostagent
if [ "$wait_s" -gt 0 ]; then
    step waiting until it is in the mesh
    istio-hostagent wait --timeout "$wait_s"
fi
step done
"""
