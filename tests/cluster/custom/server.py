"""A server of a protocol of its own: it says of the model what its model.json says."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = json.loads((Path(os.environ["MUSTER_MODEL"]) / "model.json").read_text())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        told = {"name": os.environ["MUSTER_MODEL_NAME"], "parameters": MODEL["parameters"]}
        answer = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


ThreadingHTTPServer(("", 8000), Handler).serve_forever()
