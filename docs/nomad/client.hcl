# What a client of Nomad needs for the jobs beside this file: into /etc/nomad.d of each client.
data_dir = "/var/lib/nomad"

client {
  enabled = true

  # Groups of network mode "bridge" need these plugins (Debian: containernetworking-plugins).
  cni_path = "/usr/lib/cni"
}

# The agent changes packet rules and starts the proxy as another user, so it is root. Whoever may
# submit jobs of this driver is root on every client: let access control of Nomad say who may.
plugin "raw_exec" {
  config {
    enabled = true
  }
}
