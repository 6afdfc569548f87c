# The agent where a task may be no root and may touch no packet rules: driver exec, which gives it a
# file system of its own, process numbers of its own, and the user nobody. Nothing is redirected: the
# application speaks to the proxy at a port of loopback (docs/non-transparent.md). The client needs the
# list chroot_env of client.hcl.

job "unprivileged" {
  datacenters = ["dc1"]

  group "reader" {
    network {
      mode = "bridge"
    }

    task "agent" {
      driver = "exec"
      user   = "nobody"
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

      # The secrets directory is in memory, and gone with the task.
      env {
        ISTIO_HOSTAGENT_INSTANCE = "reader"
        CONFIGURATION_DIRECTORY  = "${NOMAD_TASK_DIR}"
        STATE_DIRECTORY          = "${NOMAD_SECRETS_DIR}/state"
        RUNTIME_DIRECTORY        = "${NOMAD_SECRETS_DIR}/run"
        ISTIO_CLUSTER_CONFIG     = "${NOMAD_TASK_DIR}/cluster.env"
      }

      template {
        destination = "local/cluster.env"
        change_mode = "noop"
        data        = <<-EOF
          {{ range nomadService 1 (env "NOMAD_ALLOC_ID") "istiod" }}CA_ADDR={{ .Address }}:{{ .Port }}{{ end }}
          TRUST_DOMAIN=cluster.local
          SERVICE_ACCOUNT=reader
          CA_ROOT_CA={{ env "NOMAD_TASK_DIR" }}/root-cert.pem
          ISTIO_HOSTAGENT_TOKEN_FILE={{ env "NOMAD_SECRETS_DIR" }}/istio-token
          ISTIO_HOSTAGENT_REDIRECT=none
          {{ range nomadService 1 (env "NOMAD_ALLOC_ID") "web" }}ISTIO_HOSTAGENT_UPSTREAMS=8001={{ .Address }}:{{ .Port }}{{ end }}
          ISTIO_HOSTAGENT_MTLS=strict
          EOF
      }

      template {
        destination = "local/root-cert.pem"
        change_mode = "noop"
        data        = "{{ with nomadVar \"nomad/jobs/unprivileged/reader\" }}{{ .root }}{{ end }}"
      }

      template {
        destination = "secrets/istio-token"
        change_mode = "noop"
        perms       = "444"
        data        = "{{ with nomadVar \"nomad/jobs/unprivileged/reader\" }}{{ .token }}{{ end }}"
      }

      resources {
        memory = 200
      }
    }

    task "reader" {
      driver = "exec"
      user   = "nobody"
      config {
        command = "/usr/bin/python3"
        args = [
          "-c",
          "import sys, time, urllib.request\nwhile True:\n    try:\n        print(len(urllib.request.urlopen('http://127.0.0.1:8001/').read()), flush=True)\n    except OSError as error:\n        print(error, file=sys.stderr)\n    time.sleep(5)",
        ]
      }
    }
  }
}
