"""A web server that can be told to break off, and to know of no ranges."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Breaks off `breaks` times beyond the byte `breaks_after` of a file, with `breaks_each` the first time that it is
    asked for a part of it. Without `ranges` it sends all of it. `refuses`: the status by which it sends nothing.
    """

    def do_GET(self):
        server = self.server
        if server.refuses is not None:
            server.asked.append(self.path)
            self.send_error(server.refuses)
            return
        path = self.translate_path(self.path)
        try:
            content = Path(path).read_bytes()
        except OSError:
            self.send_error(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "") if server.ranges else "")
        begin, end = (int(asked[1]), int(asked[2] or len(content) - 1)) if asked else (0, len(content) - 1)
        part = content[begin : end + 1]
        this = self.path.rpartition("/")[2], begin
        anew = this not in server.asked
        server.asked.append(this)
        self.send_response(206 if asked else 200)
        if server.ranges:
            self.send_header("accept-ranges", "bytes")
        self.send_header("content-length", str(len(part)))
        if asked:
            self.send_header("content-range", f"bytes {begin}-{begin + len(part) - 1}/{len(content)}")
        self.end_headers()
        if begin > server.breaks_after and (server.breaks or (server.breaks_each and anew)):
            server.breaks -= 0 if server.breaks_each else 1
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def web_server(model, root):
    """Of a copy of the model, in `server.root / "affine"`; `server.asked`: files, and from which byte."""
    shutil.copytree(model, root / "affine")

    def handler(*arguments):
        return Handler(*arguments, directory=str(root))

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.root, server.asked, server.ranges = root, [], True
    server.breaks, server.breaks_after, server.breaks_each = 0, 0, False
    server.refuses = None
    server.uri = f"http://127.0.0.1:{server.server_port}/affine"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
