"""A server on this machine that speaks as much of the hub's protocol as a download takes: repositories in a folder.

``folder/models/OWNER/NAME`` and ``folder/datasets/OWNER/NAME`` hold the files. Every repository has one commit, a hash
of its names and contents; ``main`` and that commit are the revisions that there are.
"""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/([^/?]+))?")
TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/?]+)")
FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)")


@contextmanager
def hub(folder: Path):
    """Serve ``folder`` on a free port; yields the address for ``HF_ENDPOINT`` and the list of requests so far."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer()

        def do_HEAD(self):
            self.answer()

        def answer(self):
            path = unquote(self.path)
            asked.append(f"{self.command} {path}")
            if found := TREE.match(path):
                place = folder / found[1] / found[2]
                rows = [
                    {
                        "type": "file",
                        "path": name,
                        "size": (place / name).stat().st_size,
                        "oid": etag(place / name),
                    }
                    for name in names(place)
                ]
                return self.send(json.dumps(rows).encode(), commit(place))
            if found := API.match(path):
                place = folder / found[1] / found[2]
                if place.is_dir():
                    about = {"id": found[2], "sha": commit(place), "private": False}
                    about |= {"siblings": [{"rfilename": name} for name in names(place)]}
                    return self.send(json.dumps(about).encode(), about["sha"])
            if found := FILE.match(path):
                place = folder / (found[1] or "models") / found[2]
                file = place / found[4]
                if found[3] in ("main", place.is_dir() and commit(place)) and file.is_file():
                    return self.send(file.read_bytes(), commit(place), etag(file))
            self.send(b"{}", status=404)

        def send(self, content: bytes, sha: str = "", tag: str = "", status: int = 200):
            self.send_response(status)
            headers = {
                "X-Repo-Commit": sha,
                "ETag": f'"{tag}"' if tag else "",
                "Content-Length": str(len(content)),
            }
            headers |= {"X-Error-Code": "RepoNotFound"} if status == 404 else {}
            for name, value in headers.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def names(place: Path) -> list[str]:
    return sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())


def etag(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def commit(place: Path) -> str:
    """40 hex digits, as a commit has."""
    whole = hashlib.sha1()
    for name in names(place):
        whole.update(f"{name} {etag(place / name)}\n".encode())
    return whole.hexdigest()
