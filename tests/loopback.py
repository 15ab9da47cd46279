"""A real http server on this machine: it serves files, breaks off on request, and notes what was asked."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager


class Server(http.server.ThreadingHTTPServer):
    """files: name -> content. `cut` breaks answers off after so many bytes, `version` is the ETag."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.version = files, None, '"one"'
        self.ranges = []  # of each request

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        content = server.files.get(self.path.removeprefix("/"))
        if content is None:
            return self.send_error(404)
        valid = asked and self.headers.get("If-Range") == server.version
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if valid else 0
        if valid and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if valid else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", server.version)
        self.end_headers()
        self.wfile.write(content[start : server.cut])
        return None

    def log_message(self, *_):
        pass


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
