# Two groups of one job, each with the agent as its sidecar: a web server, and one who asks it.
# Both may run on one client: a group of network mode "bridge" has a network namespace of its own,
# and in there its own rules, its own proxy and its own identity. docs/nomad.md explains each part.

variable "mesh" {
  type        = string
  description = "Networks of the clients and of the groups on them: what goes there is encrypted."
  default     = "10.0.0.0/8,172.26.64.0/20"
}

variable "proxy_user" {
  type        = number
  description = "Number of the user istio-proxy on the clients (id -u istio-proxy)."
  default     = 1337
}

job "shop" {
  datacenters = ["dc1"]

  group "web" {
    # Services are taken away first; what is under way has this long.
    shutdown_delay = "5s"

    network {
      mode = "bridge"
      port "http" {
        to = 8080
      }
      port "ready" {
        to = 15021
      }
    }

    service {
      name     = "web"
      port     = "http"
      provider = "nomad"
      # Who checks has no certificate of the mesh; the proxy says whether it serves.
      check {
        type     = "http"
        port     = "ready"
        path     = "/healthz/ready"
        interval = "5s"
        timeout  = "2s"
      }
    }

    # The agent: there before the application, and gone after it.
    task "agent" {
      driver = "raw_exec"
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      config {
        command = "/usr/sbin/istio-hostagent"
        args    = ["run"]
      }

      # In directories that only root can change, which those of Nomad's tasks are not.
      env {
        CONFIGURATION_DIRECTORY = "/etc/istio-hostagent"
        STATE_DIRECTORY         = "/run/istio-hostagent/${NOMAD_ALLOC_ID}/state"
        RUNTIME_DIRECTORY       = "/run/istio-hostagent/${NOMAD_ALLOC_ID}"
        ISTIO_CLUSTER_CONFIG    = "${NOMAD_TASK_DIR}/cluster.env"
        ISTIO_SIDECAR_CONFIG    = "${NOMAD_TASK_DIR}/sidecar.env"
      }

      # The agent takes a changed file by itself.
      template {
        destination = "local/cluster.env"
        change_mode = "noop"
        data        = <<-EOF
          {{ range nomadService 1 (env "NOMAD_ALLOC_ID") "istiod" }}CA_ADDR={{ .Address }}:{{ .Port }}{{ end }}
          TRUST_DOMAIN=cluster.local
          ISTIO_SERVICE_CIDR=${var.mesh}
          ISTIO_HOSTAGENT_MESH_CIDR=${var.mesh}
          ISTIO_HOSTAGENT_MTLS=strict
          EOF
      }

      template {
        destination = "local/sidecar.env"
        change_mode = "noop"
        data        = <<-EOF
          SERVICE_ACCOUNT=web
          ISTIO_INBOUND_PORTS=8080
          ISTIO_HOSTAGENT_TOKEN_FILE={{ env "NOMAD_SECRETS_DIR" }}/istio-token
          EOF
      }

      template {
        destination = "secrets/istio-token"
        change_mode = "noop"
        perms       = "400"
        uid         = var.proxy_user
        gid         = var.proxy_user
        data        = "{{ with nomadVar \"nomad/jobs/shop/web\" }}{{ .token }}{{ end }}"
      }

      resources {
        memory = 200
      }
    }

    # The application starts once this has ended: in the mesh.
    task "joined" {
      driver = "raw_exec"
      lifecycle {
        hook = "prestart"
      }
      config {
        command = "/usr/sbin/istio-hostagent"
        args    = ["wait", "--timeout", "120"]
      }
    }

    task "web" {
      driver = "raw_exec"
      user   = "nobody"
      config {
        command = "/usr/bin/python3"
        args    = ["-m", "http.server", "8080"]
      }
    }

    # What is left in /run: the directory of this group, and the lock of its network namespace.
    task "left" {
      driver = "raw_exec"
      lifecycle {
        hook = "poststop"
      }
      config {
        command = "/bin/sh"
        args    = ["-c", "cd /run/istio-hostagent && rm -rf \"$NOMAD_ALLOC_ID\" \"$(stat -Lc %i /proc/self/ns/net)\".*"]
      }
    }
  }

  group "visitor" {
    network {
      mode = "bridge"
    }

    task "agent" {
      driver = "raw_exec"
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }
      kill_signal  = "SIGTERM"
      kill_timeout = "20s"

      config {
        command = "/usr/sbin/istio-hostagent"
        args    = ["run"]
      }

      env {
        CONFIGURATION_DIRECTORY = "/etc/istio-hostagent"
        STATE_DIRECTORY         = "/run/istio-hostagent/${NOMAD_ALLOC_ID}/state"
        RUNTIME_DIRECTORY       = "/run/istio-hostagent/${NOMAD_ALLOC_ID}"
        ISTIO_CLUSTER_CONFIG    = "${NOMAD_TASK_DIR}/cluster.env"
        ISTIO_SIDECAR_CONFIG    = "${NOMAD_TASK_DIR}/sidecar.env"
      }

      template {
        destination = "local/cluster.env"
        change_mode = "noop"
        data        = <<-EOF
          {{ range nomadService 1 (env "NOMAD_ALLOC_ID") "istiod" }}CA_ADDR={{ .Address }}:{{ .Port }}{{ end }}
          TRUST_DOMAIN=cluster.local
          ISTIO_SERVICE_CIDR=${var.mesh}
          ISTIO_HOSTAGENT_MESH_CIDR=${var.mesh}
          ISTIO_HOSTAGENT_MTLS=strict
          EOF
      }

      template {
        destination = "local/sidecar.env"
        change_mode = "noop"
        data        = <<-EOF
          SERVICE_ACCOUNT=visitor
          ISTIO_HOSTAGENT_TOKEN_FILE={{ env "NOMAD_SECRETS_DIR" }}/istio-token
          EOF
      }

      template {
        destination = "secrets/istio-token"
        change_mode = "noop"
        perms       = "400"
        uid         = var.proxy_user
        gid         = var.proxy_user
        data        = "{{ with nomadVar \"nomad/jobs/shop/visitor\" }}{{ .token }}{{ end }}"
      }

      resources {
        memory = 200
      }
    }

    task "joined" {
      driver = "raw_exec"
      lifecycle {
        hook = "prestart"
      }
      config {
        command = "/usr/sbin/istio-hostagent"
        args    = ["wait", "--timeout", "120"]
      }
    }

    # It asks in plain text, as ever.
    task "visitor" {
      driver = "raw_exec"
      user   = "nobody"
      config {
        command = "/bin/sh"
        args = [
          "-c",
          "while :; do curl --silent --show-error --fail --max-time 5 --output /dev/null \"$WEB\" && echo answered; sleep 5; done",
        ]
      }
      template {
        destination = "local/web.env"
        env         = true
        data        = <<-EOF
          {{ range nomadService 1 (env "NOMAD_ALLOC_ID") "web" }}WEB=http://{{ .Address }}:{{ .Port }}/{{ end }}
          EOF
      }
    }

    task "left" {
      driver = "raw_exec"
      lifecycle {
        hook = "poststop"
      }
      config {
        command = "/bin/sh"
        args    = ["-c", "cd /run/istio-hostagent && rm -rf \"$NOMAD_ALLOC_ID\" \"$(stat -Lc %i /proc/self/ns/net)\".*"]
      }
    }
  }
}
