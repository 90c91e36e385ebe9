"""A Hub on this computer: keeps what is committed to it in memory and hands it out again."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Serves while the `with` block lasts.

    Attributes:
        url: what `HF_ENDPOINT` must be.
        files: content by path, by repository.
        commits: repository and message of each commit, in order.
        private: repositories that were made private.
        unknown: requests that the real Hub may know and this one does not.
    """

    def __init__(self):
        self.files, self.commits, self.private, self.unknown = {}, [], set(), []
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


class HubHandler(BaseHTTPRequestHandler):
    """The endpoints of repositories of models that uploads and downloads use; every file is a regular one."""

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

    def commit_id(self, repo):
        """Changes with each commit."""
        number = sum(name == repo for name, _ in self.hub.commits)
        return hashlib.sha1(f"{repo} {number}".encode()).hexdigest()

    def do_POST(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts == ["api", "validate-yaml"]:
            return self.answer({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            url = f"{self.hub.url}/{repo}"
            if repo in self.hub.files:
                return self.answer({"error": "exists", "url": url}, 409)
            self.hub.files[repo] = {}
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(repo)
            return self.answer({"url": url, "name": repo, "id": repo})
        repo = "/".join(parts[2:4])
        if parts[:2] == ["api", "models"] and repo in self.hub.files and parts[4] == "preupload":
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self.answer({"files": [file | {"shouldIgnore": False} for file in files]})
        if parts[:2] == ["api", "models"] and repo in self.hub.files and parts[4] == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    self.hub.commits.append((repo, value["summary"]))
                elif line["key"] == "file":
                    self.hub.files[repo][value["path"]] = base64.b64decode(value["content"])
                else:
                    self.hub.unknown.append(line["key"])
            oid = self.commit_id(repo)
            return self.answer({"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"})
        self.hub.unknown.append(f"POST {self.path}")
        return self.missing("RepoNotFound")

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts == ["api", "whoami-v2"]:
            return self.answer({"name": "someone", "type": "user", "orgs": []})
        if parts[:2] == ["api", "models"]:
            repo = "/".join(parts[2:4])
            if repo not in self.hub.files:
                return self.missing("RepoNotFound")
            if parts[4:5] == ["tree"]:
                return self.missing("EntryNotFound")
            siblings = [{"rfilename": name} for name in self.hub.files[repo]]
            return self.answer({"id": repo, "modelId": repo, "sha": self.commit_id(repo), "siblings": siblings})
        if parts[:1] == ["api"]:  # what the client asks for out of curiosity
            return self.missing("EntryNotFound")
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        if len(parts) < 5 or parts[2] != "resolve" or repo not in self.hub.files:
            self.hub.unknown.append(f"{self.command} {self.path}")
            return self.missing("RepoNotFound")
        content = self.hub.files[repo].get(name)
        if content is None:
            return self.missing("EntryNotFound")
        etag = hashlib.sha256(content).hexdigest()
        return self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=self.commit_id(repo))

    do_HEAD = do_GET
