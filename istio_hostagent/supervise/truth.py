"""What an Envoy with a control plane says of itself: ready or not, and its metrics.

Envoy calls itself ready although istiod's configuration is not there yet, or was refused. Here it
is ready once it has taken clusters and listeners from istiod and none of the clusters is still
being prepared (those wait for certificate and endpoints), as pilot-agent has it. A filter in Lua,
which every Envoy has, looks at Envoy's own counters: nobody else has to run for it. Once ready it
stays so, whatever becomes of istiod. One that cannot be asked has been ready: it gives its admin
interface up when another Envoy is about to take over from it, and serves until then. The threads
that answer do not wait for Envoy's main one, which may take seconds for a large configuration: who
is busy does not hang.
Not here: what the numbers mean to the agent (`controlplane`).
Always: what is asked of the admin interface is written here, and nothing of it comes from whoever
asks.
"""

from ..config import model
from . import answering, controlplane, message

# Istio's name of the cluster that leads to the admin interface.
ADMIN = "prometheus_stats"
READINESS = "readiness"
METRICS = "metrics"
READY_PATH = "/healthz/ready"

# Each worker thread has this script, and a variable, of its own. It asks for less than the agent
# waits for an answer (liveness.SUSPICIOUS_S).
_SCRIPT = """\
local ready = false

local function ask(handle)
  local headers, text = handle:httpCall("CLUSTER",
    {[":method"] = "GET", [":path"] = "COUNTERS", [":authority"] = "localhost"}, "", 1000)
  return text or "", headers[":status"] == "503"
end

local function answer(handle, status, text)
  handle:respond({[":status"] = status, ["content-type"] = "text/plain"}, text .. "\\n")
end

local function number(text, name)
  return tonumber(string.match(text, name .. ": (%d+)")) or -1
end

function envoy_on_request(handle)
  local path = string.match(handle:headers():get(":path"), "^[^?]*")
  if path == "DOOR" then
    local text = ask(handle)
    handle:respond({[":status"] = "200"}, text)
  elseif path ~= "READY" then
    return
  elseif ready then
    answer(handle, "200", "ready")
  else
    local text, is_given_up = ask(handle)
    if is_given_up then
      ready = true
      answer(handle, "200", "ready")
    elseif number(text, "cds%.update_success") < 1 then
      answer(handle, "503", "no clusters of the control plane were taken yet")
    elseif number(text, "lds%.update_success") < 1 then
      answer(handle, "503", "no listeners of the control plane were taken yet")
    elseif number(text, "warming_clusters") > 0 then
      answer(handle, "503", "clusters are still being prepared")
    else
      ready = true
      answer(handle, "200", "ready")
    end
  end
end
"""


def build_listeners(config: model.Config, facts: model.HostFacts) -> list[message.Json]:
    """Return the listener that says how Envoy is, and the one of its metrics."""
    script = _SCRIPT.replace("CLUSTER", ADMIN).replace("READY", READY_PATH)
    script = script.replace("DOOR", controlplane.DOOR).replace("COUNTERS", controlplane.COUNTERS)
    lua = message.typed(
        "envoy.filters.http.lua",
        "envoy.extensions.filters.http.lua.v3.Lua",
        default_source_code={"inline_string": script},
    )
    metrics: message.Json = {"match": {"prefix": "/stats/prometheus"}, "route": {"cluster": ADMIN}}
    proxy = config.proxy
    places = (
        (answering.build_listener(READINESS, [], [lua]), proxy.status_port),
        (answering.build_listener(METRICS, [metrics]), proxy.prometheus_port),
    )
    return [
        {**listener, "address": message.any_address(port, facts.has_ipv6)}
        for listener, port in places
    ]
