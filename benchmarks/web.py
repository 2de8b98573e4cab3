"""Frames of an exported avatar in Chromium, by onnxruntime-web on the CPU, against Python.

python benchmarks/web.py                         writes benchmarks/results/web-cpu.json
python benchmarks/web.py --figure docs/web.png   takes the screenshot of docs/web.md instead

Needs `npm ci` in web/, chromium, chromedriver and the extra `test`. The avatar has the sizes of
faces_128.yaml and seeded weights; speed does not depend on them. A time is that of Avatar.draw on
the page: pose in, image out. Rounds of all ways are interleaved. A figure is the median frame of
the fastest round, which other programs on the machine disturbed least. The screenshot shows the
avatar that comes with guise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import export
from benchmarks.machine import write_report
from nets import api, exports
from nets.bilayer import build
from nets.bilayer.options import parse
from nets.onnx_files import Session
from nets.run import checkpoints

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "faces_128.yaml"
THREADS = (1, 2)
TRAINED = ROOT / "nets/trained/bilayer.safetensors"
POSE = 81  # frame of web/demo/driving.json on the screenshot: the mouth is open
FRAMES = 40  # of a round; the first ten are not counted
MEASURE = """
const [count, done] = arguments;
(async () => {
  const { Avatar, openRuntime } = await import("./js/avatar.js");
  const { faceCropBox, normalisedPose, recordingFrom } = await import("./js/faces.js");
  const { cropSquare, channelOf, readImage } = await import("./js/images.js");
  const asked = new URLSearchParams(location.search);
  const runtime = await openRuntime({ provider: "wasm", threads: Number(asked.get("threads")) });
  const names = ["avatar_identity.onnx", "avatar_frame.onnx"];
  const avatar = await Avatar.open(runtime, await Promise.all(names.map(async (name) => (
    { name, bytes: new Uint8Array(await (await fetch(`avatar/${name}`)).arrayBuffer()) }))));
  const read = async (path) => (await fetch(`demo/${path}`)).blob();
  const recording = recordingFrom(JSON.parse(await (await read("driving.json")).text()), "");
  const [image, mask] = await Promise.all(["source.png", "source_mask.png"].map(
    async (name) => readImage(await read(name), name)));
  const poses = recording.map((points) => normalisedPose(points, faceCropBox(points)));
  const box = { cx: 96, cy: 96, half: 96 };
  await avatar.setSource(cropSquare(image, box, avatar.size), poses[0],
    cropSquare(channelOf(mask, 0), box, avatar.size));
  const times = [];
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    await avatar.draw(poses[i % poses.length]);
    times.push(performance.now() - start);
  }
  done({ times, threads: runtime.threads });
})().catch((error) => done({ error: String(error) }));
"""


def write_avatar(folder: Path) -> int:
    """Writes the ONNX files of an avatar with seeded weights; returns its size in pixels."""
    with tempfile.TemporaryDirectory() as runs:
        options = parse("", ["--config", CONFIG, "--run_dir", runs]).as_dict()
        torch.manual_seed(0)
        net = build(options, options["networks_test"])
        path = Path(runs) / "step_00000000.pt"
        content = {"system": "bilayer", "step": 0, "options": options}
        checkpoints.write(path, content | {"parts": {"model": net.state_dict()}})
        model = api.load(path, device="cpu", system="bilayer")
        for graph in exports.graphs(model):
            exports.write_onnx(graph, folder / f"{graph.name}.onnx", exports.metadata(model, graph))
    return int(options["image_size"])


def until_driven(browser: Any) -> None:
    """Waits until the page shows frames."""
    end = time.monotonic() + 120
    while "frames/s" not in browser.find_element("id", "speed").text:
        if time.monotonic() > end:
            raise RuntimeError(f"the page shows: {browser.find_element('id', 'error').text}")
        time.sleep(0.2)


def in_browser(browser: Any, address: str, threads: int) -> list[float]:
    """Milliseconds of each frame in a newly opened page, whose own loop is stopped."""
    browser.get(f"{address}?provider=wasm&threads={threads}")
    until_driven(browser)
    browser.find_element("id", "stop").click()
    answer = browser.execute_async_script(MEASURE, FRAMES)
    if answer.get("threads") != threads:
        raise RuntimeError(f"{threads} threads: the page answers {answer}")
    return list(answer["times"])


def in_python(folder: Path) -> Callable[[int], list[float]]:
    """A function from a count of threads to the milliseconds of each frame by onnxruntime."""
    sessions = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        sessions[threads] = [
            Session(folder / f"avatar_{name}.onnx") for name in ("identity", "frame")
        ]
    torch.set_num_threads(1)

    def frames(threads: int) -> list[float]:
        identity, frame = sessions[threads]
        inputs = {name: torch.rand(shape) for name, shape in identity.shapes.items()}
        names = [name for name in frame.shapes if name != "pose"]
        person = dict(zip(identity.outputs, identity(inputs), strict=True))
        given = {name: person[name] for name in names}
        times = []
        for pose in torch.rand(FRAMES, 1, frame.shapes["pose"][1]) * 2 - 1:
            start = time.perf_counter()
            frame({**given, "pose": pose})
            times.append(1e3 * (time.perf_counter() - start))
        return times

    return frames


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[Any, str]]:
    """Chromium, and the address of the page in `folder`; both are closed at the end."""
    from selenium import webdriver

    server = subprocess.Popen(
        [sys.executable, ROOT / "web/serve.py", "--port", "0", "--folder", folder],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None  # a pipe
    address = server.stdout.readline().strip()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless", "--no-sandbox", "--no-first-run"):
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_script_timeout(300)
    try:
        yield browser, address
    finally:
        browser.quit()
        server.kill()
        server.wait()


def screenshot(folder: Path, out: Path) -> None:
    """Writes a screenshot of the page, whose driving face keeps still in one of its poses."""
    points = json.loads((ROOT / "web/demo/driving.json").read_text())[POSE]
    (folder / "pose.json").write_text(json.dumps([points]))
    with opened(folder) as (browser, address):
        browser.set_window_size(1200, 900)
        browser.get(f"{address}?provider=wasm")
        until_driven(browser)
        browser.find_element("id", "clip").send_keys(str(folder / "pose.json"))
        time.sleep(30)  # more than the 20 frames of which the page shows the speed
        browser.find_element("tag name", "html").screenshot(str(out))
    with Image.open(out) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(out, optimize=True)


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """The figures of all ways, from a folder with the page and the avatar."""
    python = in_python(folder / "avatar")
    medians: dict[str, list[float]] = {}
    with opened(folder) as (browser, address):
        for _ in range(rounds):
            for threads in THREADS:
                for name, times in (
                    (f"wasm, threads: {threads}", in_browser(browser, address, threads)),
                    (f"Python, threads: {threads}", python(threads)),
                ):
                    medians.setdefault(name, []).append(statistics.median(times[10:]))
        version = browser.capabilities["browserVersion"]
    ways = {}
    for name, values in medians.items():
        best = min(values)
        ways[name] = {"ms": best, "frames_per_second": 1e3 / best, "rounds": values}
        print(f"  {name:24}{best:8.1f} ms{1e3 / best:8.1f} frames/s")
    packages = json.loads((ROOT / "web/package.json").read_text())["dependencies"]
    return {"chromium": version, "packages": packages, "ways": ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds; default: 7")
    parser.add_argument("--output", type=Path, help="JSON")
    parser.add_argument("--figure", type=Path, help="PNG of a screenshot, in place of figures")
    args = parser.parse_args()
    if not (ROOT / "web/node_modules").is_dir():
        parser.error("needs the packages of the page: npm ci in web/")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (ROOT / "web").iterdir():
            if path.name != "avatar":
                (folder / path.name).symlink_to(path)
        (folder / "avatar").mkdir()
        if args.figure:
            export.main(["--checkpoint", str(TRAINED), "-o", str(folder / "avatar")])
            screenshot(folder, args.figure)
            return
        size = write_avatar(folder / "avatar")
        result = {"size": size, **measure(folder, args.rounds)}
    write_report(args.output or Path(__file__).parent / "results/web-cpu.json", result)


if __name__ == "__main__":
    main()
