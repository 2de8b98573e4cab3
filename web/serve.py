"""Serves the page of the avatar in the browser, on this machine alone.

    python web/serve.py

Any other server of static files will do as well. This one also sends the two headers without which
browsers give WebAssembly one thread only.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder, for a page that is isolated from other origins."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")  # another avatar has the same name
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="port; default: 8000, 0: a free one")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent,
                        help="folder to serve; default: that of this file")  # fmt: skip
    args = parser.parse_args()
    handler = functools.partial(Handler, directory=args.folder)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", args.port), handler)
    except OSError as error:
        parser.error(f"--port {args.port}: {error.strerror}")
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
