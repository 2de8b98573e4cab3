"""The page of the avatar as a user sees it, in headless Chromium."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import infer
from bilayer_tiny import avatar_run
from browser import CHROMIUM, DRIVER, MISSING, find, opened, until, write_camera
from nets.data.heads.faces import read_keypoints, to_pillow
from nets.data.io.images import read_image, write_image
from nets.data.io.video_writer import VideoWriter
from nets.worlds.heads.export import motion
from nets.worlds.heads.videos import RANGES, HeadVideos

WEB = Path(__file__).parents[2] / "web"
FRAMES = (0, 40, 80)  # of demo/driving.json
# Floats of two implementations differ by 1e-5; on both sides of a half they are neighbours.
LEVELS = 1
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Selenium's are not this project's
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
    pytest.mark.skipif(not (WEB / "node_modules").is_dir(), reason="`npm ci` was not run in web/"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with the ONNX files of an untrained avatar."""
    for name in ("selenium", "onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import export

    folder = tmp_path_factory.mktemp("exported")
    run = avatar_run(folder / "run", lively=True)
    export.main(["--checkpoint", str(run), "-o", str(folder / "avatar")])
    return folder / "avatar"


@pytest.fixture(scope="module")
def site(exported, tmp_path_factory):
    """The folder of the page with the avatar in it."""
    folder = tmp_path_factory.mktemp("site")
    for path in WEB.iterdir():
        if path.name != "avatar":
            (folder / path.name).symlink_to(path)
    (folder / "avatar").symlink_to(exported)
    return folder


@pytest.fixture(scope="module")
def address(site):
    """The page, served as docs/web.md says."""
    process = subprocess.Popen(
        [sys.executable, WEB / "serve.py", "--port", "0", "--folder", site],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def talk():
    """Images (T, 3, 192, 192) of a drawn head that talks, with room around it for the detector."""
    videos = HeadVideos("test", 128, targets=0)
    driver, count = videos[0, 20], 12
    who, behind = (driver[name].expand(count) for name in ("person", "background"))
    scene = {name: value[::4] for name, value in motion(1, 4 * count, ranges=RANGES).items()}
    images = torch.full((count, 3, 192, 192), 90, dtype=torch.uint8)
    images[:, :, 32:160, 32:160] = videos.truth(who, behind, scene)["image"]
    return images


@pytest.fixture(scope="module")
def browser(talk, exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    frames = (to_pillow(image).resize((320, 320)).crop((0, 40, 320, 280)) for image in talk)
    camera = write_camera(folder / "camera.mjpeg", frames)
    flags = ("--enable-unsafe-swiftshader", "--enable-unsafe-webgpu")
    driver = opened(folder / "profile", camera, *flags)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, address):
    """The page with the demo person, driven by recorded points."""
    browser.get(address)
    assert driven(browser)
    return browser


def driven(browser):
    """Wait for frames or an error. True if there are frames."""
    until(lambda: "frames/s" in text(browser, "#speed") or text(browser, "#error"))
    assert not text(browser, "#error")
    return "frames/s" in text(browser, "#speed")


def text(browser, selector):
    return find(browser, selector).text


def upload(browser, selector, *files):
    find(browser, selector).send_keys("\n".join(map(str, files)))


def pixels(browser, selector):
    """The image of a canvas, (3, H, W) uint8."""
    values, width = browser.execute_script(
        "const canvas = document.querySelector(arguments[0]);"
        "const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return [[...data], canvas.width]", selector,
    )  # fmt: skip
    image = torch.tensor(values, dtype=torch.uint8).view(-1, width, 4)
    return image[..., :3].permute(2, 0, 1)


@pytest.fixture(scope="module")
def expected(exported, tmp_path_factory):
    """Files of one driving frame each, and the images that infer.py writes for them."""
    folder = tmp_path_factory.mktemp("expected")
    recording = json.loads((WEB / "demo/driving.json").read_text())
    images, files = [], []
    blank = torch.zeros(3, 192, 192, dtype=torch.uint8)
    for number in FRAMES:
        files.append(folder / f"points_{number}.json")
        files[-1].write_text(json.dumps([recording[number]]))
        write_image(folder / "blank.png", blank)
        out = folder / f"result_{number}.png"
        infer.main([str(a) for a in (
            "--checkpoint", exported / "avatar_frame.onnx", "-s", WEB / "demo/source.png",
            "--source_keypoints", WEB / "demo/source.json",
            "--source_masks", WEB / "demo/source_mask.png", "-d", folder / "blank.png",
            "--driving_keypoints", files[-1], "-o", out, "--precision", "fp32",
        )])  # fmt: skip
        images.append(read_image(out, None))
    return list(zip(files, images, strict=True))


def largest_error(browser, image):
    return (pixels(browser, "#result").int() - image.int()).abs().max().item()


@pytest.mark.parametrize("provider, about", [("wasm", "wasm, "), ("webgpu", "WebGPU")])
def test_images_are_those_of_infer(browser, address, expected, provider, about):
    """WebGPU too, on Chromium's emulated graphics processor if there is no other."""
    browser.get(f"{address}tables.json")  # a page that computes nothing
    if provider == "webgpu" and not browser.execute_script(
        "return Promise.resolve(navigator.gpu?.requestAdapter()).then(Boolean)"
    ):
        pytest.skip("this browser has no adapter of WebGPU")
    browser.get(f"{address}?provider={provider}")
    assert driven(browser)
    assert about in text(browser, "#about")
    shown = [image for _, image in expected]
    assert min((a.int() - b.int()).abs().max() for a, b in pairwise(shown)) > 20
    for file, image in expected:
        upload(browser, "#clip", file)
        until(lambda image=image: largest_error(browser, image) <= LEVELS)
    assert not text(browser, "#error")


def test_everything_is_served_locally(page, address):
    find(page, "#camera").click()  # opens the detector as well
    until(lambda: find(page, "#driving").get_attribute("width") == "320")
    until(lambda: "frames/s" in text(page, "#speed"))
    requested = set()
    for entry in page.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            requested.add(message["params"]["request"]["url"])
    assert any("face_mesh.js" in url for url in requested)
    assert any(url.endswith(".wasm") for url in requested)
    local = (address, "data:", "blob:", "chrome:")
    assert [url for url in requested if not url.startswith(local)] == []


def test_the_camera_drives_the_avatar(page):
    find(page, "#camera").click()
    until(lambda: find(page, "#driving").get_attribute("width") == "320")
    assert driven(page)
    first = pixels(page, "#result")
    until(lambda: not torch.equal(pixels(page, "#result"), first))
    find(page, "#stop").click()
    time.sleep(2)  # a frame under way does not come later
    assert text(page, "#speed").strip() == ""
    assert not text(page, "#error")


def test_a_video_drives_the_avatar(page, talk, tmp_path):
    with VideoWriter(tmp_path / "talk.mp4", 5) as video:
        for image in talk:
            video.write(image)
    upload(page, "#clip", tmp_path / "talk.mp4")
    until(lambda: find(page, "#driving").get_attribute("width") == "192")
    assert driven(page)
    first = pixels(page, "#result")
    until(lambda: not torch.equal(pixels(page, "#result"), first))


def test_a_photo_becomes_the_source(page, talk, tmp_path):
    before = pixels(page, "#source")
    write_image(tmp_path / "face.png", talk[0])
    page.execute_script(
        "window.lines = []; const line = document.getElementById('speed');"
        "new MutationObserver(() => lines.push(line.textContent)).observe(line, {childList: true})"
    )
    upload(page, "#photo", tmp_path / "face.png")
    until(lambda: not torch.equal(pixels(page, "#source"), before))
    assert not text(page, "#error")
    until(lambda: "frames/s" in text(page, "#speed"))  # the motion goes on
    assert "looking for a face" in page.execute_script("return lines")


def test_the_detector_finds_the_points_of_the_demo_person(page):
    """Its points are not annotated ones, but lie where the face is: within 5 % of its side."""
    source = WEB / "demo/source.png"
    found = page.execute_async_script(
        "const done = arguments[0];"
        "import('./js/detector.js').then(async ({pointsOfPhoto}) => {"
        "  const blob = await (await fetch('demo/source.png')).blob();"
        "  done([...await pointsOfPhoto(await createImageBitmap(blob))]);"
        "}).catch((error) => done(String(error)))"
    )
    points, truth = np.reshape(found, (68, 2)), read_keypoints(WEB / "demo/source.json").numpy()
    side = np.ptp(truth, axis=0).max()
    assert Image.open(source).size == (192, 192)
    assert np.linalg.norm(points - truth, axis=1).mean() < 0.05 * side


@pytest.mark.parametrize("selector, name, content, line", [
    ("#photo", "a.png", b"not an image", "a.png: is not an image that this browser reads"),
    ("#clip", "a.mp4", b"not a video", "a.mp4: is not a video that this browser plays"),
    ("#clip", "a.json", b"[", "a.json: is not JSON"),
    ("#clip", "b.json", b"[[1, 2]]", "b.json, frame 0: must hold 68 points, x and y each"),
    ("#avatar", "a.onnx", b"not onnx", "a.onnx: is not an ONNX file"),
])  # fmt: skip
def test_a_wrong_file_is_named_in_one_line(page, tmp_path, selector, name, content, line):
    (tmp_path / name).write_bytes(content)
    upload(page, selector, tmp_path / name)
    until(lambda: text(page, "#error") == line)


def test_a_photo_without_a_face_is_named(page, tmp_path):
    write_image(tmp_path / "grey.png", torch.full((3, 60, 80), 128, dtype=torch.uint8))
    upload(page, "#photo", tmp_path / "grey.png")
    until(lambda: text(page, "#error") == "grey.png: no face found")


def test_another_avatar_can_be_chosen(page, exported):
    upload(page, "#avatar", *sorted(exported.iterdir()))
    until(lambda: "frames/s" in text(page, "#speed"))
    upload(page, "#avatar", exported / "avatar_frame.onnx")
    until(lambda: "an avatar is two files of export.py" in text(page, "#error"))
    assert "32 px" in text(page, "#about")


def test_a_plain_server_gives_one_thread_and_a_missing_avatar_is_said(browser, site, exported):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (site / "avatar").unlink()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=os.fspath(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.get(f"http://127.0.0.1:{server.server_port}/?provider=wasm")
        until(lambda: text(browser, "#error").startswith("no avatar in web/avatar: python export"))
        upload(browser, "#avatar", *sorted(exported.iterdir()))
        until(lambda: "frames/s" in text(browser, "#speed"))
        assert re.fullmatch("32 px; wasm, 1 thread", text(browser, "#about"))
    finally:
        server.shutdown()
        server.server_close()
        (site / "avatar").symlink_to(exported)
