"""As much of a Kubernetes API as an unmodified istiod needs to start: a cluster with nothing in it.

    with KubernetesApi(namespace.bind("127.0.0.1", 0), key_set) as api:
        api.kubeconfig()

istiod lists and watches its resources, and asks for reviews of tokens. So every list is
empty, every watch stays silent, no token is known here, the public token keys are where a cluster
has them, and whatever else is written is refused: a test that needs more sees it in istiod's log.
"""

import http.server
import json
import socket
import threading
import urllib.parse
from collections.abc import Mapping

KEY_SET_PATH = "/openid/v1/jwks"
_PARTIAL = "PartialObjectMetadata"


class KubernetesApi(http.server.ThreadingHTTPServer):
    """The API on a bound socket, served by threads of this process; a context manager."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        bound: socket.socket,
        key_set: Mapping[str, object],
        handler: "type[Handler] | None" = None,
    ) -> None:
        """`key_set`: JSON web keys of those who sign tokens. `handler`: of an API with more."""
        host, port = bound.getsockname()[:2]
        super().__init__((host, port), handler or Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.url = f"http://{host}:{port}"
        self.key_set = key_set
        self.closing = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))

    def __enter__(self) -> "KubernetesApi":
        self.server_activate()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def kubeconfig(self) -> str:
        """Return a client's configuration file (JSON is YAML) that leads here."""
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "clusters": [{"name": "test", "cluster": {"server": self.url}}],
                "users": [{"name": "test", "user": {}}],
            }
        )


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: KubernetesApi

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(url.query)
        if url.path == KEY_SET_PATH:
            self.answer(200, dict(self.server.key_set))
        elif query.get("watch", ["false"])[0] in ("true", "1"):
            self._watch(float(query.get("timeoutSeconds", ["600"])[0]))
        else:
            self.answer(200, self._empty_list())

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if urllib.parse.urlsplit(self.path).path.endswith("/tokenreviews"):
            self.answer(201, {**sent, "status": {"authenticated": False}})
        else:
            self._refuse()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._refuse()

    def _empty_list(self) -> dict[str, object]:
        # A client of typed objects knows what it asked for; one of metadata alone wants it said.
        kind = {"kind": f"{_PARTIAL}List", "apiVersion": "meta.k8s.io/v1"}
        is_partial = _PARTIAL in self.headers.get("Accept", "")
        return {**(kind if is_partial else {}), "metadata": {"resourceVersion": "1"}, "items": []}

    def _watch(self, seconds: float) -> None:
        """Begin an endless answer in which nothing happens, and end it in time."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.server.closing.wait(seconds)
        self.close_connection = True

    def _refuse(self) -> None:
        message = f"{self.command} {self.path}: this API is for reading"
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403}
        self.answer(403, {**status, "reason": "Forbidden", "message": message})

    def answer(self, status: int, value: dict[str, object]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass  # Standard error is for what went wrong.
