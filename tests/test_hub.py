"""hf:// addresses against a server on this machine, and the folder that is uploaded."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import export
import infer
from dcign_tiny import write_run
from nets import hub, published
from nets.data.io.images import write_image
from nets.errors import UserError
from nets.run import checkpoints
from nets.tensor_files import read_safetensors

pytest.importorskip("huggingface_hub")

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What export.py --hub writes of a small DC-IGN."""
    home = tmp_path_factory.mktemp("hub")
    run = write_run(home / "run", data="/home/somebody/scenes/")
    export.main(["--checkpoint", str(run), "--hub", str(home / "faces")])
    return home / "faces"


@pytest.fixture(scope="module")
def endpoint(folder):
    """A server with the repository me/faces, revisions main and v1; it counts what it sends."""
    content = (folder / hub.FILE).read_bytes()
    sent = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            path = self.path.partition("?")[0]
            owner, _, rest = path.strip("/").partition("/")
            name, _, rest = rest.partition("/resolve/")
            revision, _, file = rest.partition("/")
            error = None
            if (owner, name) == ("me", "closed"):
                error = 403, "GatedRepo"
            elif (owner, name) not in (("me", "faces"), ("me", "empty")):
                error = 401, "RepoNotFound"
            elif revision not in ("main", "v1", COMMIT):
                error = 404, "RevisionNotFound"
            elif name == "empty" or file != hub.FILE:
                error = 404, "EntryNotFound"
            if error:
                self.send_response(error[0])
                self.send_header("X-Error-Code", error[1])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                sent.append(path)
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", sent
    server.shutdown()
    server.server_close()


def found(addresses, endpoint, cache, **environment):
    """What looking for each address prints, in one process of its own: the package reads the
    environment when it is imported.
    """
    code = f"""
from nets import published
from nets.errors import UserError
for address in {addresses!r}:
    try:
        print(published.find(address))
    except UserError as error:
        print("refused", error)
    print("-----")
"""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1",
                "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # fmt: skip
    unset = {"HF_TOKEN", "HF_HUB_OFFLINE"}
    kept = {k: v for k, v in os.environ.items() if k not in unset and "proxy" not in k.lower()}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200,
        env={**kept, **settings, **environment},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return [part.strip() for part in process.stdout.split("-----")[:-1]]


def test_a_repository_is_downloaded_once_and_serves_offline(endpoint, folder, tmp_path):
    url, sent = endpoint
    sent.clear()
    addresses = ["hf://me/faces", "hf://me/faces@v1", f"hf://me/faces@{COMMIT}", "hf://me/faces"]
    first, *others = found(addresses, url, tmp_path)
    line, path = first.splitlines()
    size = (folder / hub.FILE).stat().st_size / 1e6
    assert line == f"downloading {hub.FILE} of hf://me/faces, commit 0123456789ab, {size:.1f} MB"
    assert Path(path).read_bytes() == (folder / hub.FILE).read_bytes()
    assert others == [path] * 3 and len(sent) == 1
    assert found(["hf://me/faces"], url, tmp_path, HF_HUB_OFFLINE="1") == [path]
    assert published.read_checkpoint(Path(path))["system"] == "dcign"


def test_what_cannot_be_downloaded_is_one_line(endpoint, tmp_path):
    refusals = {
        "hf://me": "--checkpoint hf://me: must be hf://OWNER/NAME",
        "hf://me/faces@": "must be hf://OWNER/NAME",
        "hf://me/other": "hf://me/other: no such repository, or a private one",
        "hf://me/closed": "hf://me/closed: access must be asked for",
        "hf://me/faces@v9": "hf://me/faces@v9: the repository has no revision v9",
        "hf://me/empty": "hf://me/empty: holds no model.safetensors",
    }
    said = found([*refusals], endpoint[0], tmp_path)
    for line, expected in zip(said, refusals.values(), strict=True):
        assert line.startswith("refused ") and expected in line and "\n" not in line


def test_without_a_connection_or_the_package_one_line_says_so(tmp_path, monkeypatch):
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        (line,) = found(["hf://me/faces"], "http://127.0.0.1:9", tmp_path, **environment)
        assert line == "refused hf://me/faces: not in the cache, and the Hub cannot be reached"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub: pip install -e '\.\[hub\]'"):
        published.find("hf://me/faces")


def test_the_folder_has_weights_with_options_and_a_card(folder, tmp_path, capsys):
    _, header = read_safetensors(folder / hub.FILE)
    kept = json.loads(header["guise"])
    assert kept["system"] == "dcign" and kept["options"]["data"] == "scenes"
    card = (folder / "README.md").read_text(encoding="utf-8")
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "library_name: guise" in head and "- dcign" in head
    assert "hf://OWNER/faces" in body and "| dim_hidden | 8 |" in body and "after 7 " in body
    assert "somebody" not in card + header["guise"]
    content = published.read_checkpoint(published.find(folder))
    original = checkpoints.read(next((folder.parent / "run").rglob("*.pt")))
    for name, tensor in original["parts"]["model"].items():
        assert torch.equal(content["parts"]["model"][name], tensor)
    with pytest.raises(SystemExit):
        export.main(["--checkpoint", str(folder), "--hub", str(folder)])
    assert f"{folder / hub.FILE}: exists already" in capsys.readouterr().err


def test_infer_takes_the_folder(folder, tmp_path):
    photo = torch.zeros(3, 60, 60, dtype=torch.uint8)
    write_image(tmp_path / "a.png", photo)
    out = tmp_path / "out.png"
    infer.main(["--checkpoint", str(folder), "-s", str(tmp_path / "a.png"), "--reconstruct",
                "-o", str(out)])  # fmt: skip
    assert out.exists()
