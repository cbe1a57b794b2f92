"""A small Hugging Face Hub on 127.0.0.1, over real HTTP, that lives as long as a `with` block.

It knows the endpoints that create_repo, upload_folder, push_to_hub, snapshot_download, from_pretrained (remote
code too) and load_dataset call. Repositories are kept in memory; each commit is a full copy of its files.

    with LoopbackHub() as hub:
        hub.python("from transformers import ...", tmp_path)   # a fresh process that sees no other hub
        hub.files("user/model")["README.md"]
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
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import yaml
from huggingface_hub.repocard_data import ModelCardData

TOKEN = "hf_" + "loopback" * 5
READER = "hf_reads_only"
USER = "tester"
LARGE = (".safetensors", ".parquet", ".bin", ".png")


@dataclass
class Repo:
    """Branches name commits; commits hold files."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    parents: dict[str, str] = field(default_factory=dict)


class LoopbackHub:
    """The server and what it holds. `requests` lists "METHOD path" of everything that was asked."""

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}  # ("models" or "datasets", id)
        self.blobs: dict[str, bytes] = {}  # large files by sha256
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.default_visibility = "public"  # which an organisation chooses
        self.lock = threading.Lock()

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()

    def connect(self, monkeypatch) -> None:
        """Make huggingface_hub of this process talk to this hub, as a user who is logged in."""
        for name, value in {"ENDPOINT": self.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)

    def files(self, repo_id: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        repo = self.repos[kind, repo_id]
        return repo.commits[repo.branches[revision]]

    def python(self, code: str, home: Path, *arguments: str) -> str:
        """Run code in a new process with an empty cache in `home`; return what it prints."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        env = keep | {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        env |= {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        home.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=env,
            cwd=home,
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\nunknown requests: {self.unknown}"
        return done.stdout


class Handler(BaseHTTPRequestHandler):
    """Routes are tried in order; a route's function gets the groups of its pattern."""

    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def route(self):
        address = urlsplit(self.path)
        path, self.query = unquote(address.path), parse_qs(address.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method = "GET" if self.command == "HEAD" else self.command
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            if method == "POST" and self.headers.get("Authorization") == f"Bearer {READER}":
                return self.fail(403, "", "This token may only read")
            if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
                return self.fail(401, "", "Invalid credentials in Authorization header")
            if method == "POST" and "Authorization" not in self.headers and path != "/api/validate-yaml":
                return self.fail(401, "", "Log in first")
            for known_method, pattern, function in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and method == known_method:
                    return function(self, **found.groupdict())
            self.hub.unknown.append(f"{self.command} {path}")
            return self.fail(404, "", f"this hub does not know {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = route

    def send(self, content: bytes, status: int = 200, **headers: str):
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **headers,
        }.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value, status: int = 200, **headers: str):
        self.send(json.dumps(value).encode(), status, **headers)

    def fail(self, status: int, code: str, message: str):
        self.json({"error": message}, status, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))

    def find(self, kind: str | None, repo_id: str, revision: str | None = "main"):
        """Return the repository and the commit, or answer 404 and return None."""
        repo = self.hub.repos.get(((kind or "models").rstrip("/"), repo_id))
        if repo is None or (repo.private and "Authorization" not in self.headers):
            return self.fail(404, "RepoNotFound", "Repository not found")
        commit = repo.branches.get(revision or "main", revision)
        if commit not in repo.commits:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, commit

    def whoami(self):
        if "Authorization" not in self.headers:
            return self.fail(401, "", "Log in first")
        return self.json({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self):
        wanted = json.loads(self.body)
        kind, repo_id = wanted.get("type", "model") + "s", f"{wanted.get('organization') or USER}/{wanted['name']}"
        exists = (kind, repo_id) in self.hub.repos
        if not exists:
            said = "private" if wanted.get("private") else wanted.get("visibility")
            self.hub.repos[kind, repo_id] = Repo(private=(said or self.hub.default_visibility) == "private")
        prefix = "" if kind == "models" else f"{kind}/"
        answer = {"url": f"{self.hub.url}/{prefix}{repo_id}", "name": repo_id, "id": repo_id}
        return self.json(
            answer | ({"error": "You already created this repo"} if exists else {}), 409 if exists else 200
        )

    def branch(self, kind, repo_id, revision):
        if found := self.find(kind, repo_id):
            repo, commit = found
            exists = repo.branches.setdefault(revision, commit) != commit
            return self.json({"error": "Reference already exists"} if exists else {}, 409 if exists else 200)

    def validate_yaml(self):
        """The real checks that matter to us: the block parses, languages are codes, model-index has its fields."""
        content, errors = json.loads(self.body)["content"], []
        block = re.match(r"\s*---\n(.*?)\n---", content, re.DOTALL)
        try:
            data = yaml.safe_load(block[1]) if block else {}
            ModelCardData(**data)
            languages = data.get("language") or []
            for language in [languages] if isinstance(languages, str) else languages:
                if not (isinstance(language, str) and re.fullmatch("[a-z]{2,3}|code|multilingual", language)):
                    errors.append(f'"language" must be ISO 639 codes, not {language!r}')
            for result in (entry for model in data.get("model-index", []) for entry in model["results"]):
                errors += [
                    f"metric {m['type']} has no number"
                    for m in result["metrics"]
                    if not isinstance(m["value"], int | float)
                ]
        except Exception as error:  # whatever the client sent, the answer is a 400 that says why
            errors.append(f"{type(error).__name__}: {error}")
        self.json({"errors": [{"message": message} for message in errors], "warnings": []}, 400 if errors else 200)

    def preupload(self, kind, repo_id, revision):
        if found := self.find(kind, repo_id, revision):
            repo, commit = found
            known = {path: oid(path, content) for path, content in repo.commits[commit].items()}
            paths = [entry["path"] for entry in json.loads(self.body)["files"]]
            modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
            self.json(
                {
                    "files": [
                        {"path": p, "uploadMode": modes[p], "shouldIgnore": False, "oid": known.get(p)} for p in paths
                    ]
                }
            )

    def lfs_batch(self, kind, repo_id):
        if self.find(kind, repo_id):
            wanted = json.loads(self.body)["objects"]
            put = {entry["oid"]: {"upload": {"href": f"{self.hub.url}/lfs/{entry['oid']}"}} for entry in wanted}
            objects = [e if e["oid"] in self.hub.blobs else {**e, "actions": put[e["oid"]]} for e in wanted]
            self.json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.fail(400, "", "the content is not what its sha256 says")
        self.hub.blobs[oid] = self.body
        return self.json({})

    def commit(self, kind, repo_id, revision):
        if not (found := self.find(kind, repo_id, revision)):
            return None
        repo, parent = found
        files = dict(repo.commits[parent])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                if value.get("parentCommit") not in (None, parent):
                    return self.fail(412, "", "A commit has happened since")
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        branch = f"refs/pr/{len(repo.branches)}" if "create_pr" in self.query else revision
        commit = hashlib.sha1(f"{len(repo.commits)}{repo_id}".encode()).hexdigest()
        repo.commits[commit], repo.parents[commit], repo.branches[branch] = files, parent, commit
        answer = {"commitOid": commit, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{commit}", "success": True}
        return self.json(
            answer | {"pullRequestUrl": f"{self.hub.url}/{repo_id}/discussions/{branch.rpartition('/')[2]}"}
        )

    def info(self, kind, repo_id, revision=None):
        if found := self.find(kind, repo_id, revision):
            repo, commit = found
            siblings = [{"rfilename": path, "size": len(content)} for path, content in repo.commits[commit].items()]
            self.json({"id": repo_id, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []})

    def tree(self, kind, repo_id, revision, folder=""):
        if found := self.find(kind, repo_id, revision):
            files, prefix = found[0].commits[found[1]], folder.strip("/") + "/" if folder else ""
            inside = {path: content for path, content in files.items() if path.startswith(prefix)}
            if folder and not inside:
                return self.fail(404, "EntryNotFound", f"{folder} does not exist")
            deep = "true" in (value.lower() for value in self.query.get("recursive", []))
            entries = {}
            for path, content in inside.items():
                head, _, rest = path.removeprefix(prefix).partition("/")
                if rest:
                    entries[prefix + head] = {"type": "directory", "path": prefix + head, "oid": "0" * 40, "size": 0}
                if deep or not rest:
                    entries[path] = {"type": "file", "path": path, "oid": oid(path, content), "size": len(content)}
            return self.json(list(entries.values()))

    def resolve(self, kind, repo_id, revision, path):
        if found := self.find(kind, repo_id, revision):
            files, commit = found[0].commits[found[1]], found[1]
            if path not in files:
                return self.fail(404, "EntryNotFound", f"{path} does not exist")
            content = files[path]
            return self.send(content, ETag=f'"{oid(path, content)}"', X_Repo_Commit=commit, Accept_Ranges="none")


def oid(path: str, content: bytes) -> str:
    """The name of a content, SHA-256 if it is large, else git's: what has the same name is not sent again."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


API = r"/api/(?P<kind>models|datasets)/(?P<repo_id>[^/]+/[^/]+)"
REPO = r"/(?P<kind>datasets/)?(?P<repo_id>[^/]+/[^/]+)"
REVISION = r"(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("GET", "/api/agent-harnesses", lambda handler: handler.json({})),  # telemetry asks for it under some tools
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("POST", f"{API}/branch/(?P<revision>.+)", Handler.branch),
    ("POST", f"{API}/preupload/{REVISION}", Handler.preupload),
    ("POST", f"{API}/commit/{REVISION}", Handler.commit),
    ("POST", f"{REPO}\\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    ("GET", API, Handler.info),
    ("GET", f"{API}/revision/{REVISION}", Handler.info),
    ("GET", f"{API}/tree/{REVISION}(?P<folder>/.+)?", Handler.tree),
    ("GET", f"{REPO}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
]
