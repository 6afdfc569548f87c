#!/bin/sh
# DIRECTORY [SERVER]: what an API server needs, into a directory; nothing is made anew that is there.
# SERVER: where the kubeconfig looks for it.
set -eu
umask 077
server=${2:-https://apiserver:6443}
cd "$1"
[ ! -e kubeconfig ] || exit 0

key() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
}

# NAME SUBJECT EXTENSIONS: a certificate of the CA.
certificate() {
    key "$1"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    printf '%s\n' "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 \
        -extfile "$1.ext" -out "$1.crt"
    rm "$1.csr" "$1.ext"
}

key ca
openssl req -x509 -new -key ca.key -subj /CN=consul-compose -days 3650 -out ca.crt
certificate apiserver /CN=apiserver \
    'subjectAltName=DNS:apiserver,DNS:istio-apiserver,DNS:localhost,IP:127.0.0.1,IP:172.28.0.13'
certificate admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
openssl genrsa -out tokens.key 2048
cat >kubeconfig.new <<EOF
apiVersion: v1
kind: Config
current-context: istio
contexts:
- name: istio
  context: {cluster: istio, user: admin}
clusters:
- name: istio
  cluster:
    server: $server
    certificate-authority-data: $(openssl base64 -A -in ca.crt)
users:
- name: admin
  user:
    client-certificate-data: $(openssl base64 -A -in admin.crt)
    client-key-data: $(openssl base64 -A -in admin.key)
EOF
# Other users of the images read them; the volume is theirs alone.
chmod 644 ca.crt apiserver.crt apiserver.key tokens.key kubeconfig.new
mv kubeconfig.new kubeconfig
