"""The page of app.py as a user sees it, in headless Chromium."""

import json
import time
from pathlib import Path

import pytest
import torch

from app_runs import serving, write_runs
from browser import CHROMIUM, DRIVER, MISSING, find, opened, until, write_camera
from nets.app_examples import KnownDetector, draw_examples
from nets.data.heads.faces import to_pillow
from nets.data.io.images import read_image
from nets.data.io.video import open_video

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Selenium's and Gradio's are not this project's
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]
# In the server: a detector that finds one face everywhere, as the extra `extract` would.
DETECTOR = """
import torch
import nets.app_examples
from app_runs import FakeDetector
points = torch.tensor({points})
nets.app_examples.open_detector = lambda backend: FakeDetector(points)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Examples to upload, other than those of the page, and a file for the camera."""
    pytest.importorskip("gradio", reason="Gradio is not installed")
    pytest.importorskip("selenium", reason="Selenium is not installed")
    folder, detector = tmp_path_factory.mktemp("files"), KnownDetector()
    examples = draw_examples(folder, detector)
    frames = (to_pillow(image) for _, image in open_video(examples["bilayer"].clip))
    camera = write_camera(folder / "camera.mjpeg", (f.resize((320, 240)) for f in frames))
    points = detector.faces(read_image(examples["bilayer"].photos[0], None))[0]
    bad = folder / "bad.png"
    bad.write_bytes(b"not an image")
    return {"examples": examples, "camera": camera, "points": points.tolist(), "bad": bad}


@pytest.fixture(scope="module")
def address(files, tmp_path_factory):
    folder = write_runs(tmp_path_factory.mktemp("served"))
    with serving(folder, before=DETECTOR.format(points=files["points"])) as (url, _):
        yield url


@pytest.fixture
def browser(address, files, tmp_path):
    driver = opened(tmp_path / "profile", files["camera"], "--disable-gpu")
    try:
        driver.get(address)
        until(lambda: find(driver, "#transfer-vunet").is_displayed())
        yield driver
    finally:
        driver.quit()


def tab(browser, name):
    def choose():
        for button in browser.find_elements("css selector", "button[role=tab]"):
            if button.text.strip() == name and button.is_displayed():
                button.click()
                return button.get_attribute("aria-selected") == "true"
        return False

    until(choose)


def upload(browser, selector, file):
    """Replace the image of a component as a user does: clear it, then choose a file."""
    part = find(browser, selector)
    before = part.find_elements("css selector", "img")
    clear = [b for b in part.find_elements("css selector", "button")
             if (b.get_attribute("aria-label") or b.get_attribute("title")) in
             ("Remove Image", "Clear", "clear", "Remove")]  # fmt: skip
    assert before and clear
    clear[0].click()
    until(lambda: not part.find_elements("css selector", "img"))
    until(lambda: part.find_element("css selector", "input[type=file]")).send_keys(str(file))
    until(lambda: Path(file).name in shown(browser, selector))


def shown(browser, selector):
    """The address of the image in a component; empty if there is none."""
    images = find(browser, selector).find_elements("css selector", "img")
    return (images[0].get_attribute("src") or "") if images else ""


def error(browser):
    """The text of the error on the page."""
    return until(lambda: find(browser, "[data-testid=toast-body]").text)


def test_an_upload_is_transferred(browser, files, address):
    upload(browser, "#source-vunet", files["examples"]["vunet"].photos[2])
    find(browser, "#transfer-vunet").click()
    until(lambda: shown(browser, "#result-vunet"))
    first = shown(browser, "#result-vunet")
    width = "return arguments[0].naturalWidth"
    grid = find(browser, "#grid-vunet img")
    until(lambda: browser.execute_script(width, grid) > 1000)
    upload(browser, "#source-vunet", files["examples"]["vunet"].photos[3])
    find(browser, "#transfer-vunet").click()
    until(lambda: shown(browser, "#result-vunet") not in ("", first))

    requested = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            requested.add(message["params"]["request"]["url"])
    local = (address, "data:", "blob:", "chrome:")
    assert any(url.startswith(address) for url in requested)
    assert [url for url in requested if not url.startswith(local)] == []
    serious = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert not [line for line in serious if "Content Security Policy" in line]


def test_a_bad_file_is_named(browser, files):
    upload(browser, "#source-vunet", files["bad"])
    find(browser, "#transfer-vunet").click()
    text = error(browser)
    assert "bad.png: is not an image" in text
    assert "Traceback" not in text and "guise-app-" not in text


def test_a_checkpoint_of_elsewhere_is_refused(browser):
    box = find(browser, "#checkpoint-vunet input")
    box.clear()
    box.send_keys("/etc/passwd\n")
    find(browser, "h1").click()
    find(browser, "#transfer-vunet").click()
    assert "not in a folder that this page reads (runs)" in error(browser)


def test_a_clip_is_cancelled_and_transferred(browser, address):
    tab(browser, "Landmarks")
    tab(browser, "Clip")
    find(browser, "#drive-landmarks").click()
    until(lambda: "frame " in find(browser, "#progress-landmarks").text)
    find(browser, "#cancel-landmarks").click()
    until(lambda: find(browser, "#progress-landmarks").text == "cancelled")
    time.sleep(2)
    assert find(browser, "#progress-landmarks").text == "cancelled"
    assert not find(browser, "#video-landmarks").find_elements("css selector", "video[src]")
    find(browser, "#drive-landmarks").click()
    until(lambda: find(browser, "#progress-landmarks").text.startswith("25 frames"))
    video = until(lambda: find(browser, "#video-landmarks video"))
    until(lambda: browser.execute_script("return arguments[0].duration", video))
    assert browser.execute_script("return arguments[0].duration", video) == pytest.approx(2, 0.1)
    assert browser.execute_script("return arguments[0].videoWidth", video) == 768


def test_the_camera_drives_an_avatar(browser):
    tab(browser, "Head avatars")
    tab(browser, "Camera")
    access = "#webcam-bilayer [title='grant webcam access'] button"
    until(lambda: find(browser, access)).click()
    until(lambda: find(browser, "#webcam-bilayer button[aria-label='capture photo']")).click()
    line = until(lambda: "frames/s" in find(browser, "#speed-bilayer").text and
                 find(browser, "#speed-bilayer").text)  # fmt: skip
    assert float(line.split()[0]) > 0
    until(lambda: shown(browser, "#live-bilayer"))
    first = until(lambda: shown(browser, "#live-points-bilayer"))  # over the moving camera image
    until(lambda: shown(browser, "#live-points-bilayer") not in ("", first))


def test_sliders_change_the_face(browser):
    tab(browser, "DC-IGN: faces")
    tab(browser, "Sliders")
    find(browser, "#encode-dcign").click()
    first = until(lambda: shown(browser, "#decoded-dcign"))
    assert "azimuth" in find(browser, "#latent-0").text
    assert torch.tensor(float(find(browser, "#latent-0 input[type=number]")
                              .get_attribute("value"))).isfinite()  # fmt: skip
    slider = find(browser, "#latent-0 input[type=range]")
    slider.send_keys("\ue014" * 20)  # the right arrow
    until(lambda: shown(browser, "#decoded-dcign") not in ("", first))
