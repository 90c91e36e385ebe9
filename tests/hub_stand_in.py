"""A Hub on this computer: keeps what is committed to it in memory and hands it out again."""

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
LARGE = (".safetensors", ".parquet", ".png")  # as in the `.gitattributes` that the Hub puts into a repository
BROKEN = "broken"


class Hub:
    """Serves while the `with` block lasts.

    Repositories are known by their path in an address: `org/model`, `datasets/org/ids`, `spaces/org/page`.

    Attributes:
        url: what `HF_ENDPOINT` must be.
        files: content by path, by repository.
        commits: repository and message of each commit, in order.
        private: repositories that were made private; they are not there for requests without a token.
        requests: method, path and `Authorization` of each request, in order; `None` where it had none.
        unknown: requests that the real Hub may know and this one does not.
        objects: large files that have arrived, by SHA-256, whether or not a commit names them.
        sent: how often each of them was sent whole.
        branches: repository and branch of what was committed elsewhere than on main.
        variables: by Space.
        trouble: is asked about every request, by method and path, what to answer in the Hub's place: a status, a
            status and headers, `BROKEN` to read half of what comes and hang up, or nothing.
    """

    def __init__(self, trouble: Callable | None = None):
        self.files, self.commits, self.private, self.unknown = {}, [], set(), []
        self.objects, self.sent, self.branches, self.variables = {}, Counter(), [], {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.trouble = trouble or (lambda method, path: None)
        handler = type("Handler", (HubHandler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def environment(self, home) -> dict[str, str]:
        """Variables with which a process takes this for the Hub; `home` is a folder for what it keeps."""
        return {
            "HF_ENDPOINT": self.url, "HF_TOKEN": "hf_token", "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"),
            "HF_DATASETS_CACHE": str(home / "datasets"), "HF_MODULES_CACHE": str(home / "modules"),
            "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "DISABLE_SAFETENSORS_CONVERSION": "1",
            "NO_PROXY": "127.0.0.1",
        }  # fmt: skip


class HubHandler(BaseHTTPRequestHandler):
    """The endpoints of repositories that uploads and downloads use."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *message):
        """Nothing."""

    def answer(self, content=b"", status=200, **headers):
        """Sends a response; `content` other than bytes as JSON."""
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers |= {"Content-Type": "application/json"}
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, code):
        """The Hub's way to say that there is no such thing."""
        self.answer({"error": code}, 404, X_Error_Code=code)

    def shows(self, repo):
        """Whether there is such a repository for whoever asks."""
        return repo in self.hub.files and (repo not in self.hub.private or "Authorization" in self.headers)

    def commit_id(self, repo):
        """Changes with each commit."""
        number = sum(name == repo for name, _ in self.hub.commits)
        return hashlib.sha1(f"{repo} {number}".encode()).hexdigest()

    def parse_request(self):
        """Reads the request, and answers it here where there is trouble."""
        if not super().parse_request():
            return False
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Authorization")))
        trouble = self.hub.trouble(self.command, path)
        if trouble is None:
            return True
        length = int(self.headers.get("Content-Length", 0))
        if trouble == BROKEN:
            self.rfile.read(length // 2)
            self.close_connection = True
            return False
        self.rfile.read(length)
        status, headers = trouble if isinstance(trouble, tuple) else (trouble, {})
        self.answer({"error": "trouble"}, status, **headers)
        return False

    def do_PUT(self):
        name, content = self.path.rpartition("/")[2], self.rfile.read(int(self.headers["Content-Length"]))
        if hashlib.sha256(content).hexdigest() != name:
            return self.answer({"error": "hash"}, 400)
        self.hub.objects[name] = content
        self.hub.sent[name] += 1
        return self.answer()

    def do_POST(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts == ["api", "validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            return self.create(json.loads(body))
        if parts[-4:] == ["info", "lfs", "objects", "batch"]:
            return self.answer({"transfer": "basic", "objects": list(map(self.lfs, json.loads(body)["objects"]))})
        if parts[0] == "api" and parts[1] in KINDS:
            repo = KINDS[parts[1]] + "/".join(parts[2:4])
            if self.shows(repo):
                if parts[4] == "preupload":
                    return self.answer({"files": [self.upload_mode(repo, f) for f in json.loads(body)["files"]]})
                if parts[4] == "commit":
                    return self.commit(repo, parts[5], [json.loads(line) for line in body.splitlines()])
                if parts[4] == "paths-info":
                    paths = parse_qs(body.decode())["paths"]
                    return self.answer([self.entry(repo, path) for path in paths if path in self.hub.files[repo]])
                if parts[4] == "variables":
                    value = json.loads(body)
                    self.hub.variables.setdefault(repo, {})[value["key"]] = value["value"]
                    return self.answer({})
                if parts[4] == "branch":
                    return self.answer({})
        self.hub.unknown.append(f"POST {self.path}")
        return self.missing("RepoNotFound")

    def create(self, asked):
        """A new repository."""
        kind = KINDS[asked.get("type", "model") + "s"]
        repo = f"{kind}{asked.get('organization') or 'someone'}/{asked['name']}"
        url = f"{self.hub.url}/{repo}"
        if repo in self.hub.files:
            return self.answer({"error": "exists", "url": url}, 409)
        self.hub.files[repo] = {}
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(repo)
        return self.answer({"url": url, "name": repo, "id": repo})

    def lfs(self, asked):
        """Where a large file goes; nowhere if it has arrived before."""
        if asked["oid"] in self.hub.objects:
            return asked
        return asked | {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}}

    def upload_mode(self, repo, file):
        """How a file is to come, and the hash of the one that is there."""
        content, is_large = self.hub.files[repo].get(file["path"]), file["path"].endswith(LARGE)
        found = {"path": file["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
        return found if content is None else found | {"oid": oid_of(content, is_large)}

    def commit(self, repo, revision, lines):
        """All of it at once."""
        files = dict(self.hub.files[repo])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append((repo, value["summary"]))
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                self.hub.unknown.append(line["key"])
        self.hub.files[repo] = files
        if revision != "main":
            self.hub.branches.append((repo, revision))
        oid = self.commit_id(repo)
        return self.answer({"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"})

    def entry(self, repo, path):
        """A file as it is listed."""
        content, is_large = self.hub.files[repo][path], path.endswith(LARGE)
        found = {"type": "file", "path": path, "size": len(content), "oid": oid_of(content, False)}
        lfs = {"oid": oid_of(content, True), "size": len(content), "pointerSize": 134}
        return found | {"lfs": lfs} if is_large else found

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts == ["api", "whoami-v2"]:
            return self.answer({"name": "someone", "type": "user", "orgs": []})
        if parts[0] == "api" and parts[1] in KINDS:
            repo = KINDS[parts[1]] + "/".join(parts[2:4])
            if not self.shows(repo):
                return self.missing("RepoNotFound")
            if parts[4:5] == ["tree"]:
                return self.tree(repo, "/".join(parts[6:]))
            siblings = [{"rfilename": name} for name in self.hub.files[repo]]
            name, is_private = "/".join(parts[2:4]), repo in self.hub.private
            found = {"id": name, "sha": self.commit_id(repo), "siblings": siblings, "private": is_private}
            return self.answer(found | ({"modelId": name} if parts[1] == "models" else {}))
        if parts[:1] == ["api"]:  # what the client asks for out of curiosity
            return self.missing("EntryNotFound")
        resolve = parts.index("resolve") if "resolve" in parts else 0
        repo, name = "/".join(parts[:resolve]), "/".join(parts[resolve + 2 :])
        if not self.shows(repo):
            if repo not in self.hub.files:
                self.hub.unknown.append(f"{self.command} {self.path}")
            return self.missing("RepoNotFound")
        content = self.hub.files[repo].get(name)
        if content is None:
            return self.missing("EntryNotFound")
        etag = hashlib.sha256(content).hexdigest()
        return self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=self.commit_id(repo))

    do_HEAD = do_GET

    def tree(self, repo, folder):
        """The files in a folder of a repository, and those in the folders in it."""
        inside = [path for path in self.hub.files[repo] if not folder or path.startswith(f"{folder}/")]
        if folder and not inside:
            return self.missing("EntryNotFound")
        return self.answer([self.entry(repo, path) for path in inside])


def oid_of(content: bytes, is_large: bool) -> str:
    """Hash by which the Hub knows a file: git's, or the SHA-256 of a large one."""
    return (hashlib.sha256(content) if is_large else hashlib.sha1(b"blob %d\0" % len(content) + content)).hexdigest()
