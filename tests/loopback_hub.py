"""A hub on 127.0.0.1: serves a folder of repositories to huggingface_hub and datasets, and takes
models that are pushed to it."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

PROJECT = Path(__file__).parent.parent
REPO = r"(?P<id>[^/]+/[^/]+)"
ROUTES = {
    "create": r"/api/repos/create",
    "yaml": r"/api/validate-yaml",
    "preupload": rf"/api/models/{REPO}/preupload/main",
    "commit": rf"/api/models/{REPO}/commit/main",
    "file": rf"/(?P<kind>datasets/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
    "tree": rf"/api/(?P<kind>models|datasets)/{REPO}/tree/(?P<revision>[^/]+)/?(?P<path>.*)",
    "paths": rf"/api/(?P<kind>models|datasets)/{REPO}/paths-info/(?P<revision>[^/]+)",
    "info": rf"/api/(?P<kind>models|datasets)/{REPO}(/revision/(?P<revision>[^/]+))?",
}


class LoopbackHub:
    """Serves root/models/<org>/<name>/<file> and root/datasets/<org>/<name>/<file>.

    Each repository has one commit, which is main. With `moved` {"org/a": "org/b"} the content of
    org/b has become the main of org/a, which has its own as an earlier commit. Files of a
    repository in `gated` are answered as to
    someone who has not accepted its terms; those of one in `broken` are announced, but not sent.
    Who shows `token` may make repositories and write to them. `requests` lists what was asked for,
    `private` which of the repositories made are.

        with LoopbackHub(root) as hub:
            run_python("...", endpoint=hub.url, home=tmp_path)
    """

    def __init__(
        self,
        root: Path,
        *,
        gated: Collection[str] = (),
        broken: Collection[str] = (),
        moved: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> None:
        self.root, self.gated, self.broken, self.requests = root, gated, broken, []
        self.moved = moved or {}
        self.token, self.private = token, {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def commit_of(repo: str) -> str:
    """The commit that has the content of `repo`."""
    return hashlib.sha1(repo.encode()).hexdigest()


def run_python(
    code: str, *, endpoint: str, home: Path, offline: bool = False
) -> subprocess.CompletedProcess:
    """Run `code` in a Python of its own: the libraries read where the hub is when imported."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests")]),
    }
    return subprocess.run(
        [sys.executable, "-c", f"import gc\ngc.disable()\n{code}"],  # a second sooner
        env={**clean, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self._query = parse_qs(address.query)
        self.server.hub.requests.append(f"{self.command} {self.path}")
        matches = ((name, re.fullmatch(pattern, address.path)) for name, pattern in ROUTES.items())
        name, match = next(((name, match) for name, match in matches if match), (None, None))
        if match is None:
            return self._refuse(404, "NotFound")
        if name in ("create", "yaml", "preupload", "commit"):
            return self._write(name, match.groupdict().get("id"))
        kind = "datasets" if (match["kind"] or "").startswith("datasets") else "models"
        main = self.server.hub.moved.get(match["id"], match["id"])
        repo = main if match["revision"] in (None, "main", commit_of(main)) else match["id"]
        folder = self.server.hub.root / kind / repo
        if not folder.is_dir():  # the hub does not tell strangers what is private or not there
            return self._refuse(401, "RepoNotFound")
        if match["revision"] not in (None, "main", commit_of(repo)):
            return self._refuse(404, "RevisionNotFound")
        if name == "info":
            return self._json(_info(match["id"], commit_of(repo), kind, folder))
        if name == "tree":
            return self._tree(folder, unquote(match["path"]))
        if name == "paths":
            paths = (folder / path for path in self._paths())
            return self._json([_entry(folder, path) for path in paths if path.exists()])
        return self._file(repo, folder / unquote(match["path"]))

    do_HEAD = do_POST = do_GET

    def _write(self, name: str, repo: str | None) -> None:
        hub = self.server.hub
        if name == "yaml":
            return self._json({"errors": [], "warnings": []})
        if hub.token is None or self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._refuse(403, "Forbidden")
        asked = [json.loads(line) for line in self._body.splitlines()]
        if name == "create":
            repo = f"{asked[0]['organization']}/{asked[0]['name']}"
            folder = hub.root / "models" / repo
            content = json.dumps({"url": f"{hub.url}/{repo}"}).encode()
            if folder.is_dir():
                return self._answer(409, content, {"Content-Type": "application/json"})
            folder.mkdir(parents=True)
            hub.private[repo] = asked[0].get("private") or asked[0].get("visibility") == "private"
            return self._answer(200, content, {"Content-Type": "application/json"})
        if name == "preupload":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [modes | {"path": f["path"]} for f in asked[0]["files"]]})
        for one in (line["value"] for line in asked if line["key"] == "file"):
            path = hub.root / "models" / repo / one["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(one["content"]))
        commit = commit_of(repo)
        return self._json({"commitUrl": f"{hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def log_message(self, *_: object) -> None:
        pass

    def _tree(self, folder: Path, path: str) -> None:
        start = folder / path
        if not start.is_dir():
            return self._refuse(404, "EntryNotFound")
        recursive = self._query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = start.rglob("*") if recursive else start.iterdir()
        return self._json([_entry(folder, entry) for entry in sorted(entries)])

    def _paths(self) -> list[str]:
        if "json" in self.headers.get("Content-Type", ""):
            return json.loads(self._body)["paths"]
        return parse_qs(self._body).get("paths", [])

    def _file(self, repo: str, path: Path) -> None:
        if repo in self.server.hub.gated:
            return self._refuse(401, "GatedRepo")
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", commit_of(repo))
        if repo in self.server.hub.broken and self.command == "GET":
            return self._refuse(410, "Gone")
        content = path.read_bytes()
        headers = {"ETag": f'"{_oid(path)}"', "X-Repo-Commit": commit_of(repo)}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return self._answer(200, content, {**headers, "Accept-Ranges": "bytes"})
        first, last = int(part[1]), int(part[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._answer(206, content[first : last + 1], headers)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": commit}
        self._answer(status, json.dumps({"error": code}).encode(), headers)

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _info(repo: str, commit: str, kind: str, folder: Path) -> dict:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "_id": commit[:24],
        "id": repo,
        kind.removesuffix("s") + "Id": repo,
        "sha": commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "siblings": [{"rfilename": path.relative_to(folder).as_posix()} for path in files],
    }


def _entry(folder: Path, path: Path) -> dict:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "oid": commit_of(name), "size": 0, "path": name}
    return {"type": "file", "oid": _oid(path), "size": path.stat().st_size, "path": name}


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
