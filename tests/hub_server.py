"""A small Hugging Face Hub on the loopback, for the real client.

It speaks the calls that huggingface_hub, datasets and evaluate make to push a folder and to read it back: create,
preupload, LFS, commit, info, tree, paths-info and resolve. Repositories live in memory, so a test can look at their
bytes and at who may see them. It knows one user and one token.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

USER = "user"
TOKEN = "hf_loopback"
LFS_SUFFIXES = (".safetensors", ".mp4", ".mkv", ".avi", ".parquet", ".bin", ".png", ".jpg")
TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
CREATED = "2024-01-01T00:00:00.000Z"


@dataclass
class Repo:
    """One repository: every commit keeps its whole tree, path to bytes."""

    repo_type: str
    repo_id: str
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.commit({})

    @property
    def files(self) -> dict[str, bytes]:
        """The newest tree."""
        return self.commits[-1][1]

    def commit(self, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(f"{self.repo_type}/{self.repo_id}/{len(self.commits)}".encode()).hexdigest()
        self.commits.append((sha, files))
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and tree of a branch or commit name; None where there is no such revision."""
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class Hub:
    """The server, its repositories and the environment in which a client process finds it."""

    def __init__(self, folder: Path) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.log: list[str] = []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.env = client_environment(folder, self.url)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def files(self, repo_type: str, repo_id: str) -> dict[str, bytes]:
        """What a repository holds now."""
        return self.repos[repo_type, repo_id].files

    def run(self, code: str, *args: object, env: dict[str, str] | None = None) -> Any:
        """Run Python code in a fresh client process; its last line of stdout is JSON and comes back parsed."""
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, args)],
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.strip().splitlines()[-1])


def client_environment(folder: Path, url: str) -> dict[str, str]:
    """Return an environment in which the real client talks to url and keeps its cache and token in folder."""
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and not key.lower().endswith("_proxy")
    }
    return env | {
        "HF_ENDPOINT": url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # evaluate would ask a storage bucket far away
        "NO_PROXY": "127.0.0.1,localhost",
    }


class _Problem(Exception):
    def __init__(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean; the log is on the hub."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        body = self._read_body()
        with self.hub.lock:
            self.hub.log.append(f"{self.command} {path}")
            try:
                self._dispatch(path, body)
            except _Problem as problem:
                headers = {"X-Error-Message": problem.message, **problem.headers}
                if problem.code:
                    headers["X-Error-Code"] = problem.code
                self._send(problem.status, json.dumps({"error": problem.message}).encode(), headers)

    def _dispatch(self, path: str, body: bytes) -> None:
        for methods, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods:
                getattr(self, name)(*(unquote(group or "") for group in match.groups()), body=body)
                return
        raise _Problem(404, None, f"no such call: {self.command} {path}")

    # -- calls that change something

    def create(self, body: bytes) -> None:
        self._require_token()
        order = json.loads(body)
        repo_type, owner = order.get("type", "model"), order.get("organization") or USER
        repo_id = f"{owner}/{order['name']}"
        if owner != USER:
            raise _Problem(
                403, None, f'You don\'t have the rights to create a {repo_type} under the namespace "{owner}"'
            )
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        url = f"{self.hub.url}/{prefix}{repo_id}"
        if (repo_type, repo_id) in self.hub.repos:
            self._json({"error": "You already created this repo", "url": url}, status=409)
            return
        self.hub.repos[repo_type, repo_id] = Repo(repo_type, repo_id, order.get("visibility") == "private")
        self._json({"url": url, "name": repo_id, "id": repo_id})

    def validate_yaml(self, body: bytes) -> None:
        block = re.match(r"---\n(.*?)\n---", json.loads(body)["content"], flags=re.DOTALL)
        metadata = yaml.safe_load(block[1]) if block else None
        license_id = (metadata or {}).get("license", "other")
        if re.fullmatch(r"[a-z0-9.-]+", license_id):
            self._json({"errors": [], "warnings": []})
            return
        message = f'"license" must be one of [apache-2.0, mit, ...], got "{license_id}"'
        if self.headers.get("Accept") == "text/plain":
            self._send(400, f"Invalid metadata:\n- {message}".encode(), {"Content-Type": "text/plain"})
        else:
            self._json({"errors": [{"message": message}], "warnings": []}, status=400)

    def preupload(self, plural: str, repo_id: str, revision: str, body: bytes) -> None:
        self._require_token()
        _, files = self._tree(plural, repo_id, revision)
        answers = []
        for wanted in json.loads(body)["files"]:
            path = wanted["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            oid = _oid(path, files[path]) if path in files else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def lfs_batch(self, body: bytes) -> None:
        self._require_token()
        answers = []
        for wanted in json.loads(body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.lfs:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
            answers.append(answer)
        self._json({"transfer": "basic", "objects": answers})

    def lfs_put(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Problem(400, None, "the bytes do not match their sha256")
        self.hub.lfs[oid] = body
        self._send(200, b"")

    def commit(self, plural: str, repo_id: str, revision: str, body: bytes) -> None:
        self._require_token()
        files = dict(self._tree(plural, repo_id, revision)[1])
        for line in body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "deletedFolder":
                files = {path: data for path, data in files.items() if not path.startswith(value["path"])}
        sha = self.hub.repos[TYPES[plural], repo_id].commit(files)
        url = f"{self.hub.url}/{'' if plural == 'models' else plural + '/'}{repo_id}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    # -- calls that read

    def whoami(self, body: bytes) -> None:
        self._require_token()
        self._json({"name": USER, "type": "user", "orgs": [], "auth": {"type": "access_token"}})

    def info(self, plural: str, repo_id: str, revision: str = "main", *, body: bytes) -> None:
        sha, files = self._tree(plural, repo_id, revision)
        repo = self.hub.repos[TYPES[plural], repo_id]
        dates = {"createdAt": CREATED, "lastModified": CREATED}
        counts = {"downloads": 0, "likes": 0, "tags": [], "gated": False, "disabled": False}
        siblings = [{"rfilename": path} for path in files]
        facts = {"id": repo_id, "author": USER, "sha": sha, "private": repo.private, "siblings": siblings}
        self._json(facts | dates | counts)

    def tree(self, plural: str, repo_id: str, revision: str, folder: str, *, body: bytes) -> None:
        sha, files = self._tree(plural, repo_id, revision)
        folder = folder.strip("/")
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in files if path.startswith(prefix)]
        if folder and not inside:
            raise _Problem(404, "EntryNotFound", f"{folder} does not exist", {"X-Repo-Commit": sha})
        recursive = "recursive=true" in urlsplit(self.path).query.lower()
        entries = {}
        for path in inside:
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                name = prefix + "/".join(parts[:depth])
                entries[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
            if recursive or len(parts) == 1:
                entries[path] = _entry(path, files[path])
        self._json([entries[name] for name in sorted(entries)])

    def paths_info(self, plural: str, repo_id: str, revision: str, *, body: bytes) -> None:
        _, files = self._tree(plural, repo_id, revision)
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        wanted = json.loads(body)["paths"] if is_json else re.findall(r"paths=([^&]*)", unquote(body.decode()))
        answers = []
        for path in [wanted] if isinstance(wanted, str) else wanted:
            if path in files:
                answers.append(_entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                answers.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self._json(answers)

    def resolve(self, plural: str, repo_id: str, revision: str, path: str, *, body: bytes) -> None:
        sha, files = self._tree(plural.rstrip("/") or "models", repo_id, revision)
        if path not in files:
            raise _Problem(404, "EntryNotFound", f"{path} does not exist", {"X-Repo-Commit": sha})
        data, oid = files[path], _oid(path, files[path])
        headers = {"X-Repo-Commit": sha, "ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
        if path.endswith(LFS_SUFFIXES):
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted or self.command == "HEAD":
            self._send(200, data, headers)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        if start >= len(data):
            raise _Problem(416, None, "range not satisfiable", {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self._send(206, data[start : end + 1], headers)

    # -- what the calls share

    def _tree(self, plural: str, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repo = self.hub.repos.get((TYPES[plural], repo_id))
        if repo is None or (repo.private and not self._has_token()):
            # As on the Hub, a stranger cannot tell a private repository from one that is not there.
            raise _Problem(404 if self._has_token() else 401, "RepoNotFound", "Repository not found")
        commit = repo.at(revision)
        if commit is None:
            raise _Problem(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _require_token(self) -> None:
        if not self._has_token():
            raise _Problem(401, None, "Invalid credentials in Authorization header")

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _json(self, answer: Any, *, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


_REPO = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"
_ROUTES = [
    (("POST",), r"/api/repos/create", "create"),
    (("POST",), r"/api/validate-yaml", "validate_yaml"),
    (("POST",), rf"{_REPO}/preupload/([^/]+)", "preupload"),
    (("POST",), r"/.+\.git/info/lfs/objects/batch", "lfs_batch"),
    (("PUT",), r"/lfs/([0-9a-f]{64})", "lfs_put"),
    (("POST",), rf"{_REPO}/commit/([^/]+)", "commit"),
    (("GET",), r"/api/whoami-v2", "whoami"),
    (("GET",), _REPO, "info"),
    (("GET",), rf"{_REPO}/revision/([^/]+)", "info"),
    (("GET",), rf"{_REPO}/tree/([^/]+)(/.*)?", "tree"),
    (("POST",), rf"{_REPO}/paths-info/([^/]+)", "paths_info"),
    (("GET", "HEAD"), r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
]


def _oid(path: str, data: bytes) -> str:
    if path.endswith(LFS_SUFFIXES) and data:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _oid(path, data)[:40]}
    if path.endswith(LFS_SUFFIXES) and data:
        entry["lfs"] = {"oid": _oid(path, data), "size": len(data), "pointerSize": 134}
    return entry
