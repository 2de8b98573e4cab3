"""The page of app.py: one tab a system, built with Gradio."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from nets import api, app_systems
from nets.app_examples import Examples, KnownDetector, draw_examples
from nets.app_systems import Checkpoints, SourceDriver, Speed
from nets.data.io.images import read_image
from nets.errors import BadSample, UserError

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # of the machine
MONO = ["ui-monospace", "Consolas", "monospace"]
TITLES = {"vunet": "VUNet: people", "landmarks": "Landmarks", "bilayer": "Head avatars",
          "dcign": "DC-IGN: faces"}  # fmt: skip
ABOUT = {
    "vunet": "The person of the source in the pose of the driving image.",
    "landmarks": "The appearance of the source in the pose of the driving image; landmarks are "
    "learned without labels.",
    "bilayer": "The head of the source follows the face of the driving image, clip or camera.",
    "dcign": "The face of the source with the pose and light of the driving face, or of sliders.",
}
CSS = """
.gradio-container {max-width: 1400px !important; width: 100%; margin: auto}
.gradio-container > main, .gradio-container main > .wrap {width: 100%}
footer {display: none !important}
.guise-speed p {font-size: 1.3em}
"""
CAMERA = ("landmarks", "bilayer")  # systems with a camera
SHAPES = 5  # sliders of DC-IGN beside those of the factors
MOST_SAMPLES = 16
CAMERA_EVERY = 0.05  # seconds between frames that the browser sends, at least
CAMERA_LIMIT = 600  # seconds; then the camera has to be started again
KEEP = 3600  # seconds that uploads and results are kept


class Page:
    """What the handlers of the page share: loaded networks, examples, limits.

    folder       of temporary files; everything uploaded and computed lies in it
    checkpoints  the ones that may be read
    detector     of people and faces
    max_seconds  of a clip that are used
    """

    def __init__(
        self,
        folder: Path,
        checkpoints: Checkpoints,
        detector: KnownDetector,
        max_seconds: float = 60.0,
        device: str = "auto",
        precision: Any = "auto",
    ):
        self.folder, self.checkpoints, self.detector = folder, checkpoints, detector
        self.max_seconds, self.device, self.precision = max_seconds, device, precision
        self.examples = draw_examples(folder / "examples", detector)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._models: dict[str, tuple[tuple[Path, int], api.Model]] = {}
        self._drivers: dict[str, tuple[Any, SourceDriver]] = {}

    def model(self, system: str, name: str | None) -> Any:
        """The network of a checkpoint; the last one of each system is kept."""
        path = self.checkpoints.resolve(system, name)
        key = path, path.stat().st_mtime_ns
        with self._lock:
            if system not in self._models or self._models[system][0] != key:
                self._models.pop(system, None)
                self._drivers.pop(system, None)
                loaded = api.load(path, self.device, self.precision)
                if loaded.system != system:
                    raise UserError(f"{name}: a checkpoint of {loaded.system}, not of {system}")
                self._models[system] = key, loaded
            return self._models[system][1]

    def driver(
        self,
        system: str,
        name: str | None,
        source: str | None,
        background: str,
        proportions: bool = False,
    ) -> SourceDriver:
        """The driver of a source image; those of a camera are kept for its next frame."""
        if not source:
            raise UserError("a source image is needed")
        model = self.model(system, name)
        behind = None if background == "as it is" else background
        key = source, behind, proportions
        with self._lock:
            if system in self._drivers and self._drivers[system][0] == key:
                return self._drivers[system][1]
        image, label = read_image(source, None), Path(source).name
        driver = app_systems.make_driver(model, image, label, self.detector, behind, proportions)
        if system in CAMERA:
            with self._lock:
                self._drivers[system] = key, driver
        return driver

    def transfer(
        self,
        system: str,
        name: str | None,
        source: str,
        driving: str,
        background: str = "as it is",
        proportions: bool = False,
    ) -> tuple[Any, Any]:
        """The result and the grid of all images, uint8 (H, W, 3)."""
        if not driving:
            raise UserError("a driving image is needed")
        driver = self.driver(system, name, source, background, proportions)
        cells = driver.still(read_image(driving, None), Path(driving).name)
        return app_systems.rows([cells["result"]], 1, 2 * app_systems.SIDE), app_systems.grid(cells)

    def clip(
        self,
        system: str,
        name: str | None,
        source: str,
        clip: str,
        beside: bool,
        background: str = "as it is",
        proportions: bool = False,
        progress: Any = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Yields (video file or skip, line on the progress) while a clip is driven."""
        if not clip:
            raise UserError("a driving clip is needed")
        driver = self.driver(system, name, source, background, proportions)
        out = self.folder / "videos" / f"{Path(clip).stem}_{next(self._numbers)}.mp4"
        steps = app_systems.drive_clip(driver, Path(clip), out, beside, self.max_seconds)
        speed, rate = Speed(), None
        for done, total in steps:
            rate = speed.frame() or rate
            line = f"frame {done} of {total}" + (f", {rate:.1f} frames/s" if rate else "")
            if progress is not None:
                progress((done, total), desc=line, unit="frames")
            yield gr.skip(), line
        yield str(out), f"{done} frames" + (f", {rate:.1f} frames/s" if rate else "")

    def camera(
        self,
        system: str,
        name: str | None,
        source: str,
        background: str,
        frame: Any,
        speed: Speed | None,
    ) -> tuple[Any, Any, str, Speed]:
        """Points, result, frames per second, and their counter, for a frame of the camera."""
        speed = speed or Speed()
        if frame is None:
            return gr.skip(), gr.skip(), "", speed
        driver = self.driver(system, name, source, background)
        image = torch.tensor(frame).permute(2, 0, 1).contiguous()
        cells = driver.drive(image, "the camera")
        rate = speed.frame()
        line = "**…**" if rate is None else f"**{rate:.1f} frames/s**"
        if cells is None:
            return gr.skip(), gr.skip(), f"{line}, no {driver.what} in sight", speed
        images = [app_systems.rows([cells[n]], 1, app_systems.SIDE) for n in ("pose", "result")]
        return images[0], images[1], line, speed

    def sample(self, name: str | None, driving: str, count: int, seed: int) -> tuple[Any, Any]:
        """Random appearances in the pose of an image, and the pose."""
        if not driving:
            raise UserError("a driving image is needed")
        model, image = self.model("vunet", name), read_image(driving, None)
        label = Path(driving).name
        cells, samples = app_systems.sample_grid(
            model, image, label, self.detector, int(count), int(seed)
        )
        return app_systems.rows(samples, 4), app_systems.grid(cells)

    def encode(self, name: str | None, source: str) -> list[Any]:
        """The code of a face, and its sliders with their ranges; unused sliders are hidden."""
        if not source:
            raise UserError("a source image is needed")
        model = self.model("dcign", name)
        code = model.encode(read_image(source, None))
        names = app_systems.latent_names(model, SHAPES)[: 3 + SHAPES]
        sliders = []
        for latent in names:
            value = float(code[app_systems.latent_index(model, latent)])
            ends = app_systems.latent_range(model, latent, value)
            low, high, value, step = app_systems.short_scale(*ends, value)
            sliders.append(gr.update(label=latent, minimum=low, maximum=high, value=value,
                                     step=step, visible=True))  # fmt: skip
        sliders += [gr.update(visible=False)] * (3 + SHAPES - len(names))
        return [code.tolist(), *sliders]

    def decode(self, name: str | None, code: list[float] | None, *values: float) -> Any:
        """The face of a code whose first latents are those of the sliders."""
        if code is None:
            raise UserError("encode the source first")
        model = self.model("dcign", name)
        changed = torch.tensor(code)
        if len(changed) != model.net.latents:
            raise UserError("another checkpoint was chosen; encode the source again")
        names = app_systems.latent_names(model, SHAPES)[: 3 + SHAPES]
        for latent, value in zip(names, values, strict=False):
            changed[app_systems.latent_index(model, latent)] = value
        face = (model.decode(changed) * 255).round().to(torch.uint8).expand(3, -1, -1)
        return app_systems.rows([face], 1, 2 * app_systems.SIDE)


def shown(page: Page, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its errors as one line on the page; defects also go to the terminal."""

    def line(error: Exception) -> gr.Error:
        text = " ".join(str(error).split())
        if not isinstance(error, UserError | BadSample | ValueError):
            traceback.print_exception(error, file=sys.stderr)
            text = f"a defect of guise ({type(error).__name__}); the terminal says more"
        # Uploads lie in folders named by their content.
        text = re.sub(re.escape(f"{page.folder}{os.sep}") + r"(?:[\w.]+[/\\])*", "", text)
        return gr.Error(text[:400], duration=None, print_exception=False)

    @functools.wraps(function)
    def call(*args: Any, **settings: Any) -> Any:
        try:
            return function(*args, **settings)
        except Exception as error:
            raise line(error) from None

    @functools.wraps(function)
    def generate(*args: Any, **settings: Any) -> Iterator[Any]:
        try:
            yield from function(*args, **settings)
        except Exception as error:
            raise line(error) from None

    return generate if inspect.isgeneratorfunction(function) else call


def build(page: Page) -> gr.Blocks:
    """The page."""
    # Uploads and results are deleted after an hour, all of them at the end of the program.
    with gr.Blocks(title="guise", analytics_enabled=False, delete_cache=(300, KEEP)) as blocks:
        gr.Markdown(
            "# guise\nThe appearance of one image in the pose of another. Everything is computed "
            "on this machine; the examples are drawn, not photographed."
        )
        with gr.Tabs():
            for system, title in TITLES.items():
                with gr.Tab(title, id=system, elem_id=f"tab-{system}"):
                    _Tab(page, system, blocks)
    return blocks


def launch_options(page: Page) -> dict[str, Any]:
    """Arguments of `Blocks.launch` that keep the page local: no fonts or scripts of others."""
    theme = gr.themes.Soft(
        primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=MONO, radius_size="sm"
    )
    from starlette.middleware import Middleware

    return {
        "theme": theme,
        "css": CSS,
        "server_name": "127.0.0.1",
        "ssr_mode": False,
        "mcp_server": False,
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": [],
        "show_error": False,
        "allowed_paths": [],
        "blocked_paths": [str(folder) for folder in (Path.cwd(), *page.checkpoints.folders)
                          if not page.folder.resolve().is_relative_to(folder.resolve())],
        "app_kwargs": {"middleware": [Middleware(SamePlace)]},
    }  # fmt: skip


class SamePlace:
    """Middleware: browsers load nothing from other places, and no other page embeds this one."""

    POLICY = (
        "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; "
        "form-action 'self'; base-uri 'self'"
    )

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", self.POLICY.encode())
                message = {**message, "headers": [*message.get("headers", []), header]}
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


class _Tab:
    """The tab of a system."""

    def __init__(self, page: Page, system: str, blocks: gr.Blocks):
        self.page, self.system = page, system
        self.examples: Examples = page.examples[system]
        choices = page.checkpoints.choices(system)
        with gr.Row(equal_height=False):
            self.checkpoint = gr.Dropdown(
                choices,
                value=choices[0][1] if choices else None,
                allow_custom_value=True,
                label="Checkpoint: a run, or a path below its folders",
                info=ABOUT[system],
                scale=5,
                elem_id=f"checkpoint-{system}",
            )
            again = gr.Button("Look for runs again", scale=0, min_width=180, size="sm")
        missing = gr.Markdown(self.hint(bool(choices)), visible=not choices)
        again.click(self.refresh, None, [self.checkpoint, missing], api_visibility="private")
        photos = self.examples.photos
        with gr.Row():
            with gr.Column(min_width=260):
                self.source = _photo("Source: its appearance", photos[0], f"source-{system}")
                gr.Examples([[str(file)] for file in photos], [self.source], label="Examples")
                self.background = gr.Radio(
                    ["as it is", "white", "black"],
                    value="as it is",
                    label="Background of the avatar",
                    visible=system == "bilayer",
                )
                proportions = gr.Checkbox(
                    False,
                    label="keep the source's proportions",
                    info="trunk, arms and legs as long as the source person's",
                    visible=system == "vunet",
                    elem_id=f"proportions-{system}",
                )
                self.vunet_only = [proportions] if system == "vunet" else []
            with gr.Column(scale=2), gr.Tabs():
                with gr.Tab("Photo", elem_id=f"photo-{system}"):
                    self.photo()
                with gr.Tab("Clip", elem_id=f"clip-{system}"):
                    self.clip()
                if system in CAMERA:
                    with gr.Tab("Camera", elem_id=f"camera-{system}"):
                        self.camera()
                if system == "vunet":
                    with gr.Tab("Samples", elem_id="samples-vunet"):
                        self.samples()
                if system == "dcign":
                    with gr.Tab("Sliders", elem_id="sliders-dcign"):
                        self.sliders()

    def hint(self, have: bool) -> str:
        """A line on how to get a checkpoint, if there is none."""
        if have:
            return ""
        how = app_systems.how_to_get(self.system)
        return f"**No checkpoint of this system yet.** {how}; then look for runs again."

    def refresh(self) -> tuple[Any, Any]:
        choices = self.page.checkpoints.choices(self.system)
        value = choices[0][1] if choices else None
        found = gr.update(choices=choices, value=value)
        return found, gr.update(value=self.hint(bool(choices)), visible=not choices)

    def handler(self, name: str) -> Callable[..., Any]:
        """A method of the page for this system, with its errors shown."""
        return shown(self.page, getattr(self.page, name))

    def photo(self) -> None:
        photos, system = self.examples.photos, self.system
        with gr.Row():
            with gr.Column(min_width=240):
                driving = _photo("Driving photo: its pose", photos[1], f"driving-{system}")
                gr.Examples([[str(file)] for file in photos[::-1]], [driving], label="Examples")
            with gr.Column(min_width=240):
                result = _output("Result", f"result-{system}")
                go = gr.Button("Transfer", variant="primary", elem_id=f"transfer-{system}")
        grid = _output("Source, what is detected, result", f"grid-{system}", height=230)
        run = self.handler("transfer")

        def transfer(*args: Any) -> Any:
            return run(system, *args)

        inputs = [self.checkpoint, self.source, driving, self.background, *self.vunet_only]
        go.click(transfer, inputs, [result, grid], concurrency_id="network", concurrency_limit=1,
                 api_name=f"transfer_{system}")  # fmt: skip

    def clip(self) -> None:
        system = self.system
        limit = self.page.max_seconds
        with gr.Row():
            with gr.Column(min_width=240):
                driving = gr.Video(
                    str(self.examples.clip),
                    sources=["upload"],
                    label="Driving clip: its motion",
                    include_audio=True,
                    height=320,
                    elem_id=f"driving-clip-{system}",
                )
                beside = gr.Checkbox(
                    True,
                    label="source and driving frame beside the result",
                    info=f"The result keeps the sound. At most {limit:g} s of the clip are used.",
                )
                with gr.Row():
                    go = gr.Button("Transfer", variant="primary", elem_id=f"drive-{system}")
                    stop = gr.Button("Cancel", variant="stop", elem_id=f"cancel-{system}")
            with gr.Column(min_width=240):
                result = gr.Video(label="Result", interactive=False, height=320,
                                  buttons=["download"], elem_id=f"video-{system}")  # fmt: skip
                line = gr.Markdown("", elem_id=f"progress-{system}")
        run = self.handler("clip")

        def clip(*args: Any, progress: Any = gr.Progress()) -> Any:  # noqa: B008 - Gradio's way
            yield from run(system, *args, progress=progress)

        inputs = [self.checkpoint, self.source, driving, beside, self.background]
        inputs += self.vunet_only
        event = go.click(clip, inputs, [result, line], concurrency_id="network",
                         concurrency_limit=1, api_name=f"clip_{system}",
                         show_progress_on=result)  # fmt: skip
        cancelled = stop.click(None, cancels=[event], queue=False, api_visibility="private")
        # After the cancelling, so that no line of the clip comes later.
        cancelled.then(lambda: "cancelled", None, line, queue=False, api_visibility="private")

    def camera(self) -> None:
        system = self.system
        with gr.Row():
            with gr.Column(min_width=240):
                frame = gr.Image(
                    sources=["webcam"],
                    streaming=True,
                    type="numpy",
                    format="jpeg",
                    label="Camera",
                    height=320,
                    elem_id=f"webcam-{system}",
                )
            with gr.Column(min_width=240):
                result = _output("Result", f"live-{system}", format="jpeg")
        with gr.Row():
            points = _output("What is detected", f"live-points-{system}", 240, format="jpeg")
            line = gr.Markdown("", elem_id=f"speed-{system}", elem_classes="guise-speed")
        speed = gr.State(None)
        run = self.handler("camera")

        def camera(*args: Any) -> Any:
            return run(system, *args)

        inputs = [self.checkpoint, self.source, self.background, frame, speed]
        frame.stream(
            camera,
            inputs,
            [points, result, line, speed],
            stream_every=CAMERA_EVERY,
            time_limit=CAMERA_LIMIT,
            concurrency_id="camera",
            concurrency_limit=1,
            show_progress="hidden",
            api_visibility="private",
        )

    def samples(self) -> None:
        photos = self.examples.photos
        with gr.Row():
            with gr.Column(min_width=240):
                driving = _photo("Driving photo: its pose", photos[1], "sampled-pose")
                count = gr.Slider(1, MOST_SAMPLES, 8, step=1, label="Samples")
                seed = gr.Slider(0, 1000, 0, step=1, label="Seed")
                go = gr.Button("Sample", variant="primary", elem_id="sample-vunet")
            with gr.Column(min_width=240):
                result = _output("Random appearances", "samples-result", height=420)
        grid = _output("What is detected", "samples-grid", height=300)
        go.click(self.handler("sample"), [self.checkpoint, driving, count, seed], [result, grid],
                 concurrency_id="network", concurrency_limit=1, api_name="sample")  # fmt: skip

    def sliders(self) -> None:
        code = gr.State(None)
        with gr.Row():
            with gr.Column(min_width=240):
                go = gr.Button("Encode the source", variant="primary", elem_id="encode-dcign")
                latents = [gr.Slider(-1, 1, 0, label=name, visible=False, elem_id=f"latent-{i}")
                           for i, name in enumerate([""] * (3 + SHAPES))]  # fmt: skip
            with gr.Column(min_width=240):
                result = _output("Face of the code", "decoded-dcign")
        decode, inputs = self.handler("decode"), [self.checkpoint, code, *latents]
        encoded = go.click(self.handler("encode"), [self.checkpoint, self.source],
                           [code, *latents], concurrency_id="network", concurrency_limit=1,
                           api_visibility="private")  # fmt: skip
        encoded.success(decode, inputs, result, api_visibility="private", show_progress="hidden")
        for latent in latents:
            latent.input(decode, inputs, result, trigger_mode="always_last",
                         show_progress="hidden", api_visibility="private")  # fmt: skip


def _photo(label: str, example: Path, name: str) -> Any:
    """An image to upload; handlers get its file as it was uploaded, and name it if it is bad."""
    image: Any = gr.Image(
        str(example),
        type="filepath",
        sources=["upload", "clipboard"],
        label=label,
        height=320,
        elem_id=name,
    )
    # Gradio's own step opens the file and fails without a message that a user can read.
    image.preprocess = lambda payload: payload.path if payload else None
    return image


def _output(label: str, name: str, height: int = 320, format: str = "png") -> gr.Image:
    return gr.Image(
        label=label,
        interactive=False,
        format=format,
        height=height,
        elem_id=name,
        buttons=["download", "fullscreen"],
        show_label=not name.startswith(("grid-", "samples-grid")),  # it would hide the captions
    )
