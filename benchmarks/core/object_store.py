"""An S3 server on this machine in the place of the real service, for tests and for counting: moto, told what to do
wrong, or how long to wait."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing-access",
    "AWS_SECRET_ACCESS_KEY": "testing-secret-0123456789",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""Of a client of the double, besides AWS_ENDPOINT."""

Ask = Callable[[str, str], bool]
"""Whether a request (method, path) is meant."""


class Double:
    """A running server. It counts what it is asked, and may be told to lose answers or to keep a request waiting."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self.asked: Counter[str] = Counter()
        self.lose: Ask | None = None
        """Requests that are carried out, and answered with an error of the server."""
        self.lost = 0
        self.forbid: Ask | None = None
        """Requests that are refused, as one without the right to them is."""
        self.delay = 0.0
        """Seconds that every request waits: what a network does, in part."""
        self.endpoint = ""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.asked[method] += 1
        time.sleep(self.delay)
        if self.forbid is not None and self.forbid(method, path):
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            start_response("403 Forbidden", [("Content-Length", str(len(body))), ("Content-Type", "application/xml")])
            return [body]
        if self.lose is None or not self.lose(method, path):
            answer: Iterable[bytes] = self._application(environ, start_response)
            return answer
        for _ in self._application(environ, lambda *_: lambda _: None):
            pass
        self.lost += 1
        start_response("500 Internal Server Error", [("Content-Length", "0")])
        return [b""]

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        asked = urllib.request.Request(
            self.endpoint + path, body or None, {"Content-Type": "text/plain"}, method=method
        )
        with urllib.request.urlopen(asked, timeout=10) as answer:
            found: bytes = answer.read()
        return found

    def make_bucket(self, name: str) -> str:
        """Its address."""
        self.request("PUT", f"/{name}")
        return f"s3://{name}"

    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "AWS_ENDPOINT": self.endpoint}


@contextmanager
def running() -> Iterator[Double]:
    """A double on a free port of the loopback interface."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: Any) -> None:
            return

    double = Double(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, double, threaded=True, request_handler=Quiet)
    double.endpoint = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    serving.start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
