# A control plane without Kubernetes around it, as docs/consul/compose.yaml has it: etcd and an API
# server hold Istio's objects, istiod is control plane and CA. One group: its tasks share a network
# namespace, so what they say to each other stays on its loopback. Consul, where it is wanted, is that
# of the datacentre, with an agent on each client.

variable "programs" {
  type        = string
  description = "Where etcd, kube-apiserver and pilot-discovery are on the clients."
  default     = "/usr/local/bin"
}

variable "user" {
  type        = string
  description = "As whom they run: whoever it is can read the keys of the control plane."
  default     = "nobody"
}

job "control-plane" {
  datacenters = ["dc1"]

  group "control-plane" {
    # What etcd holds stays with the client, and comes along when the group has to move.
    ephemeral_disk {
      sticky  = true
      migrate = true
      size    = 1000
    }

    # They wait for each other by starting again: the API server for etcd, istiod for both, and for its
    # namespace, which somebody has to make once.
    restart {
      attempts = 20
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    network {
      mode = "bridge"
      port "api" {
        static = 6443
        to     = 6443
      }
      port "xds" {
        static = 15012
        to     = 15012
      }
      port "ready" {
        to = 8080
      }
    }

    service {
      name     = "apiserver"
      port     = "api"
      provider = "nomad"
      check {
        type     = "tcp"
        interval = "5s"
        timeout  = "2s"
      }
    }

    service {
      name     = "istiod"
      port     = "xds"
      provider = "nomad"
      check {
        type     = "http"
        port     = "ready"
        path     = "/ready"
        interval = "5s"
        timeout  = "2s"
      }
    }

    # Made once: a CA, the API server's certificate, the key of tokens, a kubeconfig.
    task "keys" {
      driver = "raw_exec"
      user   = var.user
      lifecycle {
        hook = "prestart"
      }
      config {
        command = "/bin/sh"
        args = [
          "-c",
          "install -d -m 700 \"$1\" && exec sh \"$0\" \"$1\" https://127.0.0.1:6443",
          "${NOMAD_TASK_DIR}/make-keys.sh",
          "${NOMAD_ALLOC_DIR}/data/keys",
        ]
      }
      template {
        destination = "local/make-keys.sh"
        # docs/consul/make-keys.sh; a brace behind a dollar sign is written with two dollar signs here.
        data = <<SCRIPT
#!/bin/sh
# DIRECTORY [SERVER]: what an API server needs, into a directory; nothing is made anew that is there.
# SERVER: where the kubeconfig looks for it.
set -eu
umask 077
server=$${2:-https://apiserver:6443}
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
SCRIPT
      }
    }

    task "etcd" {
      driver = "raw_exec"
      user   = var.user
      config {
        command = "${var.programs}/etcd"
        args = [
          "--data-dir=${NOMAD_ALLOC_DIR}/data/etcd",
          "--listen-client-urls=http://127.0.0.1:2379",
          "--advertise-client-urls=http://127.0.0.1:2379",
          "--listen-peer-urls=http://127.0.0.1:2380",
        ]
      }
      resources {
        memory = 300
      }
    }

    task "apiserver" {
      driver       = "raw_exec"
      user         = var.user
      kill_timeout = "30s"
      config {
        command = "${var.programs}/kube-apiserver"
        args = [
          "--etcd-servers=http://127.0.0.1:2379",
          "--service-cluster-ip-range=10.99.0.0/16",
          "--bind-address=0.0.0.0",
          "--secure-port=6443",
          "--tls-cert-file=${NOMAD_ALLOC_DIR}/data/keys/apiserver.crt",
          "--tls-private-key-file=${NOMAD_ALLOC_DIR}/data/keys/apiserver.key",
          "--client-ca-file=${NOMAD_ALLOC_DIR}/data/keys/ca.crt",
          "--authorization-mode=RBAC",
          "--service-account-issuer=https://kubernetes.default.svc",
          "--service-account-key-file=${NOMAD_ALLOC_DIR}/data/keys/tokens.key",
          "--service-account-signing-key-file=${NOMAD_ALLOC_DIR}/data/keys/tokens.key",
          "--disable-admission-plugins=ServiceAccount",
          "--endpoint-reconciler-type=none",
        ]
      }
      resources {
        memory = 500
      }
    }

    task "istiod" {
      driver = "raw_exec"
      user   = var.user
      config {
        command = "${var.programs}/pilot-discovery"
        args = [
          "discovery",
          "--kubeconfig=${NOMAD_ALLOC_DIR}/data/keys/kubeconfig",
          "--clusterID=nomad",
          "--httpAddr=:8080",
          "--monitoringAddr=127.0.0.1:15014",
        ]
      }
      env {
        POD_NAMESPACE = "istio-system"
      }
      resources {
        memory = 500
      }
    }
  }
}
