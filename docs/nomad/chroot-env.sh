#!/bin/sh
# Prints what tasks of driver exec find of this client: the agent, Python, an Envoy, and the libraries
# that these use. For /etc/nomad.d/chroot.json; without such a list Nomad copies all of /usr and /etc
# into each task. Once more after an upgrade of what is listed.
set -eu
version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
envoy=$(command -v envoy)
# The last is loaded by name: OpenSSL's providers.
libraries="/usr/lib/python$version /usr/lib/python3/dist-packages $(echo /usr/lib/*/ossl-modules)"
programs="/usr/bin/python3 /usr/bin/setpriv /usr/bin/env /bin/sh $envoy"
names="/etc/passwd /etc/group /etc/hosts /etc/resolv.conf /etc/nsswitch.conf"

{
    printf '%s\n' $programs $names $libraries /usr/sbin/istio-hostagent /usr/share/istio-hostagent
    # Each names its libraries as "NAME => PATH (ADDRESS)", and the loader as "PATH (ADDRESS)".
    { printf '%s\n' $programs; find $libraries -name '*.so'; } | xargs ldd 2>/dev/null |
        awk '$2 == "=>" && $3 ~ "^/" { print $3 } $1 ~ "^/" && NF == 2 && $2 ~ "^[(]" { print $1 }'
} | sort -u | while read -r path; do
    # A link would be taken along as a link: where it leads to, under its name.
    [ ! -e "$path" ] || printf '"%s": "%s"\n' "$(readlink -f "$path")" "$path"
done | sort -u -t: -k1,1 | {
    printf '{"client": {"chroot_env": {\n'
    sed '$!s/$/,/'
    printf '}}}\n'
}
