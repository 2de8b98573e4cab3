"""A page to play with trained networks, in a browser on this machine.

    python app.py                            the weights that come with guise, and runs/
    python app.py --checkpoints published/   also those in another folder

One tab a system: a photo in the pose of another photo, of a clip or of a camera. The page is
served on 127.0.0.1 only. Needs the extra `app`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from nets.data.detectors import AUTO, BACKENDS
from nets.errors import UserError
from nets.run import options
from nets.run.options import PositiveFloat, PositiveInt, add_flag

if TYPE_CHECKING:
    from nets.app_page import Page

HOST = "127.0.0.1"


# fmt: off
def parser() -> options.Parser:
    p = options.Parser(__doc__.split("\n\n")[0])
    g = p.add_argument_group("page")
    add = g.add_argument
    add("--checkpoints", type=str, nargs="+", default=[], metavar="DIR",
        help="folders whose checkpoints may be chosen, beside runs/")
    add("--port", type=PositiveInt | None, default=None,
        help="port of the page; default: the first free one from 7860 on")
    add_flag(g, "--browser", False, "open the page in the browser")
    add_flag(g, "--share", False, "also serve the page to the internet, through a server of Gradio")
    g = p.add_argument_group("limits")
    add = g.add_argument
    add("--max_upload", type=PositiveFloat, default=64.0, help="largest upload, megabytes")
    add("--max_seconds", type=PositiveFloat, default=60.0,
        help="seconds of a clip that are used; the rest is left out")
    g = p.add_argument_group("networks")
    add = g.add_argument
    add("--detector", type=Literal[(AUTO, *BACKENDS)], default=AUTO,
        help="detector of joints and faces; pip install -e '.[extract]'; auto: dlib for faces if "
        "it is installed, else mediapipe")
    add("--device", type=Literal["auto", "cpu", "cuda"], default="auto",
        help="device; auto: cuda if there is one")
    add("--precision", type=Literal["auto", "fp32", "bf16", "fp16"], default="auto",
        help="numerical precision; auto: bf16 if the device has bf16 arithmetic")
    return p
# fmt: on


def open_page(args: options.Namespace, folder: Path) -> Page:
    """The page's handlers, with their files in `folder`. Raises UserError without Gradio."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_SERVER_NAME", "GRADIO_ROOT_PATH"):
        os.environ.pop(name, None)
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the page needs Gradio, which cannot be imported ({error}): pip install -e '.[app]'"
        ) from error
    from nets.app_examples import KnownDetector
    from nets.app_page import Page
    from nets.app_systems import Checkpoints

    for given in args.checkpoints:
        if not Path(given).is_dir():
            raise UserError(f"--checkpoints {given}: no such folder")
    checkpoints = Checkpoints([Path("runs"), *map(Path, args.checkpoints)])
    detector = KnownDetector(args.detector)
    return Page(folder, checkpoints, detector, args.max_seconds, args.device, args.precision)


def serve(args: options.Namespace, folder: Path) -> None:
    """Serve the page until the program is stopped."""
    page = open_page(args, folder)
    from nets.app_page import build, launch_options

    if args.share:
        print(
            "--share: everybody who has the link can use this page and this machine's processor; "
            "images travel through a server of Gradio",
            file=sys.stderr,
            flush=True,
        )
    blocks = build(page)
    try:
        _, url, shared = blocks.queue(max_size=32).launch(
            **launch_options(page),
            server_port=args.port,
            share=args.share,
            inbrowser=args.browser,
            max_file_size=int(args.max_upload * 1e6),
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError as error:
        raise UserError(f"--port {args.port}: {error}") from error
    print(f"guise: {url}" + (f" and {shared}" if shared else "") + "; Ctrl-C stops it", flush=True)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        print("stopped")
    finally:
        blocks.close(verbose=False)


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = options.parse(parser(), argv)
    before = signal.signal(signal.SIGTERM, _stop)
    folder = Path(tempfile.mkdtemp(prefix="guise-app-"))
    try:
        serve(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
