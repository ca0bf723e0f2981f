"""A hub on this machine: the part of the Hugging Face hub's interface that its own client uses here, over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_" + "t" * 34


class Hub:
    """Repositories in memory.

    Attributes:
        files: repository to path to content.
        private: repositories that were made private.
        messages: of the commits.
        asked: every request, as ``METHOD path``.
        large: suffixes that go through large file storage, as the hub's own ``.gitattributes`` has them for weights.
        part: bytes that large files are sent in; whole by default.
        broken: whether large file storage takes nothing.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []
        self.asked: list[str] = []
        self.large: tuple[str, ...] = ()
        self.part: int | None = None
        self.broken = False
        self.sent: dict[str, bytes] = {}

    def commit(self, name: str) -> str:
        """The hash of what stands in a repository."""
        return hashlib.sha1(repr(sorted(self.files[name].items())).encode()).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve a hub; its address."""

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def client(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Any) -> Iterator[str]:
    """Lead huggingface_hub to a hub on this machine, logged in, with a cache of its own."""
    import huggingface_hub.constants as constants

    with serving(hub) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield address


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def _answer(self, value: Any = None, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self, code: str) -> None:
        self._answer({"error": code}, 404, X_Error_Code=code, X_Error_Message="Not here")

    def _path(self) -> list[str]:
        path = unquote(urlsplit(self.path).path)
        self.state.asked.append(f"{self.command} {path}")
        return path.strip("/").split("/")

    def do_GET(self) -> None:
        hub, parts = self.state, self._path()
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            if name not in hub.files:
                return self._missing("RepoNotFound")
            if parts[4:5] == ["tree"]:
                return self._answer([
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in hub.files[name].items()
                ])  # fmt: skip
            siblings = [{"rfilename": path} for path in hub.files[name]]
            return self._answer({"id": name, "modelId": name, "sha": hub.commit(name), "siblings": siblings})
        name, path = "/".join(parts[:2]), "/".join(parts[4:])
        if parts[2:3] != ["resolve"] or path not in hub.files.get(name, {}):
            return self._missing("EntryNotFound")
        content = hub.files[name][path]
        mark = f'"{hashlib.sha1(content).hexdigest()}"'
        return self._answer(content, ETag=mark, X_Repo_Commit=hub.commit(name), Accept_Ranges="bytes")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        hub, parts = self.state, self._path()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts[:1] == ["stored"]:
            # All parts of a file are there: what they make must be what was announced.
            hub.sent[parts[1]] = b"".join(
                hub.sent.pop(f"{parts[1]}/{one['partNumber']}") for one in json.loads(body)["parts"]
            )
            return self._answer({})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid credentials"}, 401, X_Error_Message="Invalid username or password.")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if name in hub.files:
                return self._answer({"error": "You already created this model repo", "url": name}, 409)
            hub.files[name] = {}
            hub.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
            return self._answer({"url": f"http://{self.headers['Host']}/{name}"})
        if parts == ["api", "validate-yaml"]:
            return self._answer({"errors": [], "warnings": []})
        if parts[2:] == ["info", "lfs", "objects", "batch"]:
            return self._answer(
                {"transfer": "basic", "objects": [self._place(one) for one in json.loads(body)["objects"]]}
            )
        name, action = "/".join(parts[2:4]), parts[4]
        if action == "preupload":
            mode = lambda path: "lfs" if path.endswith(hub.large or "/") else "regular"
            files = [{"path": one["path"], "uploadMode": mode(one["path"]), "shouldIgnore": False, "oid": None}
                     for one in json.loads(body)["files"]]  # fmt: skip
            return self._answer({"files": files})
        assert action == "commit", parts
        for line in body.splitlines():
            what = json.loads(line)
            if what["key"] == "file":
                hub.files[name][what["value"]["path"]] = base64.b64decode(what["value"]["content"])
            elif what["key"] == "lfsFile":
                content = hub.sent.pop(what["value"]["oid"])
                assert hashlib.sha256(content).hexdigest() == what["value"]["oid"]
                assert len(content) == what["value"]["size"]
                hub.files[name][what["value"]["path"]] = content
            else:
                hub.messages.append(what["value"]["summary"])
        address = f"http://{self.headers['Host']}/{name}/commit/{hub.commit(name)}"
        return self._answer({"commitUrl": address, "commitOid": hub.commit(name), "success": True})

    def _place(self, one: dict[str, Any]) -> dict[str, Any]:
        """Where a large file is to be sent, in the words of Git's large file storage."""
        address, part = f"http://{self.headers['Host']}/stored/{one['oid']}", self.state.part
        header = {}
        if part is not None:
            header = {"chunk_size": str(part)} | {
                f"{number:05d}": f"{address}/{number}" for number in range(1, -(-one["size"] // part) + 1)
            }
        return {**one, "actions": {"upload": {"href": address, "header": header}}}

    def do_PUT(self) -> None:
        hub, parts = self.state, self._path()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        assert parts[0] == "stored", parts
        if hub.broken:
            return self._answer({"error": "no room"}, 403)
        hub.sent["/".join(parts[1:])] = body
        return self._answer({}, ETag=f'"{hashlib.md5(body).hexdigest()}"')
