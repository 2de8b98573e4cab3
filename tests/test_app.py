"""The page of app.py without a browser: its handlers, its server, what it refuses."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

import app
import guise
from app_runs import FakeDetector, open_page, serving, write_runs, write_tone
from nets.app_examples import KnownDetector, draw_examples
from nets.app_systems import Checkpoints, Speed, short_scale
from nets.data.io.images import read_image, write_image
from nets.data.io.video import open_video
from nets.data.io.video_writer import VideoWriter
from nets.errors import UserError
from nets.published import SYSTEMS
from nets.run.options import parse

# Gradio and its server are others' code: their warnings are not this project's.
pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("app"))


@pytest.fixture
def page(runs, monkeypatch, tmp_path):
    pytest.importorskip("gradio", reason="Gradio is not installed")
    monkeypatch.chdir(runs)
    return open_page(tmp_path / "files")


def photo(page, system, number=0):
    return str(page.examples[system].photos[number])


def finished(steps):
    """The last value of a generator, and how many came before."""
    values = list(steps)
    return values[-1], len(values) - 1


def test_examples_need_no_detector(tmp_path, monkeypatch):
    def absent(backend):
        raise UserError("not installed")

    monkeypatch.setattr("nets.app_examples.open_detector", absent)
    detector = KnownDetector()
    examples = draw_examples(tmp_path, detector)
    assert set(examples) == set(SYSTEMS)
    for one in examples.values():
        assert len(one.photos) == 4 and all(file.is_file() for file in [*one.photos, one.clip])
    for file in examples["vunet"].photos:
        (person,) = detector.people(read_image(file, None))
        assert person.joints.shape == (17, 2) and person.joints[0].isfinite().all()
    for _, image in open_video(examples["vunet"].clip):
        assert len(detector.people(image)) == 1
    for image in [read_image(file, None) for file in examples["bilayer"].photos]:
        assert detector.faces(image)[0].shape == (68, 2)
        assert 0.1 < detector.mask(image).mean() < 0.9
    for _, image in open_video(examples["bilayer"].clip):
        assert len(detector.faces(image)) == 1
    with pytest.raises(UserError, match="not installed"):
        detector.faces(torch.zeros(3, 8, 8, dtype=torch.uint8))


def test_only_checkpoints_of_the_chosen_folders_are_read(runs, monkeypatch, tmp_path):
    monkeypatch.chdir(runs)
    allowed = Checkpoints([Path("runs")])
    for system in SYSTEMS:
        assert (f"runs/{system}/a",) * 2 in allowed.choices(system)
    assert allowed.resolve("dcign", "runs/dcign/a").name == "step_00000007.pt"
    assert allowed.resolve("dcign", str(runs / "runs/dcign/a")).name == "step_00000007.pt"
    outside = tmp_path / "other.pt"
    outside.write_bytes((runs / "runs/dcign/a/checkpoints/step_00000007.pt").read_bytes())
    link = tmp_path / "runs/link.pt"
    link.parent.mkdir()
    link.symlink_to(outside)
    for name in (str(outside), "/etc/passwd", "runs/../setup.py", "~/.bashrc"):
        with pytest.raises(UserError, match=r"not in a folder that this page reads \(runs\)"):
            allowed.resolve("dcign", name)
    with pytest.raises(UserError, match="not in a folder that this page reads"):
        Checkpoints([tmp_path / "runs"]).resolve("dcign", str(link))
    assert Checkpoints([tmp_path]).resolve("dcign", str(link)) == outside
    with pytest.raises(UserError, match="runs/absent"):
        allowed.resolve("dcign", "runs/absent")
    for name in (None, "", " "):
        with pytest.raises(UserError, match=r"train_dcign\.py --config demo_dcign\.yaml"):
            allowed.resolve("dcign", name)


def test_the_hints_name_configurations_that_exist():
    from nets.app_systems import how_to_get

    for system in SYSTEMS:
        command = how_to_get(system).split("`")[1].split()
        assert (ROOT / command[1]).is_file()
        assert list(ROOT.glob(f"configs/*/{command[3]}"))


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_transfer_of_two_examples(page, system):
    result, grid = page.transfer(system, f"runs/{system}/a", photo(page, system),
                                 photo(page, system, 1))  # fmt: skip
    assert result.std() > 1 and grid.std() > 1
    assert grid.shape[1] > grid.shape[0] and result.shape[0] >= 512


def test_a_vunet_keeps_the_proportions_of_the_source(page, monkeypatch):
    asked = []
    loaded = page.model("vunet", "runs/vunet/a")
    transfer = loaded.transfer
    monkeypatch.setattr(loaded, "transfer",
                        lambda *a, **k: asked.append(k) or transfer(*a, **k))  # fmt: skip
    pair = ("vunet", "runs/vunet/a", photo(page, "vunet"), photo(page, "vunet", 1))
    plain, _ = page.transfer(*pair)
    kept, _ = page.transfer(*pair, "as it is", True)
    assert not (plain == kept).all() and asked[-1] == {"keep_proportions": True}
    clip = str(page.examples["vunet"].clip)
    finished(page.clip(*pair[:3], clip, False, "as it is", True))
    assert all(one == {"keep_proportions": True} for one in asked[2:]) and len(asked) > 3


def test_a_transfer_is_that_of_the_library(page):
    loaded = guise.load("runs/landmarks/a", "cpu")
    files = [photo(page, "landmarks", i) for i in (0, 1)]
    driver = page.driver("landmarks", "runs/landmarks/a", files[0], "as it is")
    cells = driver.still(read_image(files[1], None), "driving")
    assert torch.equal(cells["result"], loaded.transfer(*files))
    assert list(driver.source)[:2] == ["source", "landmarks"]
    assert list(cells)[-3:] == ["driving", "pose", "result"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_clip_keeps_its_length_and_sound(page, system, tmp_path):
    silent = page.examples[system].clip
    clip = tmp_path / "clip.mp4"
    with VideoWriter(clip, 12.5, write_tone(tmp_path / "tone.m4a")) as video:
        frames = [image for _, image in open_video(silent)][:8]
        for image in frames:
            video.write(image)
    if system in ("vunet", "bilayer"):  # the copy's pixels differ, so that nobody is known in it
        clip = silent
    name, source = f"runs/{system}/a", photo(page, system)
    (file, line), steps = finished(page.clip(system, name, source, str(clip), True))
    written = open_video(file)
    assert written.frames == open_video(clip).frames == steps and f"{steps} frames" in line
    assert written.has_audio == (clip != silent)
    height, width = written.size
    assert width == 3 * height
    (file, _), _ = finished(page.clip(system, name, source, str(clip), False))
    assert open_video(file).size[0] == open_video(file).size[1]


def test_a_clip_is_bounded_and_can_be_cancelled(page):
    page.max_seconds = 0.4
    arguments = ("landmarks", "runs/landmarks/a", photo(page, "landmarks"))
    (file, _), steps = finished(page.clip(*arguments, str(page.examples["landmarks"].clip), False))
    assert steps == 5  # 12.5 frames a second
    Path(file).unlink()
    running = page.clip(*arguments, str(page.examples["landmarks"].clip), False)
    next(running)
    running.close()
    assert not list((page.folder / "videos").iterdir())


def test_samples_are_seeded(page):
    arguments = ("runs/vunet/a", photo(page, "vunet"), 3)
    first, again, other = (page.sample(*arguments, seed)[0] for seed in (0, 0, 1))
    assert (first == again).all() and not (first == other).all()


def test_the_sliders_of_a_code(page):
    code, *sliders = page.encode("runs/dcign/a", photo(page, "dcign"))
    assert [s["label"] for s in sliders][:4] == ["azimuth", "elevation", "light", "shape:1"]
    for slider in sliders:
        assert slider["minimum"] <= slider["value"] <= slider["maximum"]
        numbers = [slider[name] for name in ("minimum", "maximum", "value", "step")]
        assert max(len(str(number)) for number in numbers) <= 8, numbers  # or the slider scrolls
    values = [slider["value"] for slider in sliders]
    same = page.decode("runs/dcign/a", code, *values)
    moved = page.decode("runs/dcign/a", code, sliders[0]["maximum"], *values[1:])
    assert same.shape == moved.shape and not (same == moved).all()
    with pytest.raises(UserError, match="encode the source first"):
        page.decode("runs/dcign/a", None, *values)


@pytest.mark.parametrize("low, high, value, scale", [
    (-12.0521, 11.8806, 7.33338, (-12.1, 11.9, 7.3, 0.1)),
    (-0.2599, 0.2100, -0.03528, (-0.26, 0.21, -0.035, 0.001)),
    (-0.001, 0.001, 0.0, (-0.001, 0.001, 0.0, 0.00001)),
    (-250.0, 750.0, 3.0, (-250.0, 750.0, 0.0, 10.0)),
])  # fmt: skip
def test_a_slider_has_few_digits_and_holds_its_range(low, high, value, scale):
    assert short_scale(low, high, value) == scale


def test_a_camera_drives_an_avatar(page, monkeypatch):
    points = page.detector.faces(read_image(photo(page, "bilayer"), None))[0]
    monkeypatch.setattr("nets.app_examples.open_detector", lambda backend: FakeDetector(points))
    frame = torch.randint(0, 255, (48, 64, 3), dtype=torch.uint8).numpy()
    arguments = ("bilayer", "runs/bilayer/a", photo(page, "bilayer"), "white")
    seen, result, line, speed = page.camera(*arguments, frame, None)
    assert seen.shape == result.shape and line == "**…**"
    driver = page.driver(*arguments)
    _, _, line, speed = page.camera(*arguments, frame, speed)
    assert line.endswith("frames/s**") and page.driver(*arguments) is driver
    _, _, line, speed = page.camera(*arguments, frame * 0, speed)
    assert "no face in sight" in line


def test_speed_forgets_a_pause(monkeypatch):
    now = iter([0.0, 0.1, 0.2, 10.0, 10.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    speed = Speed()
    rates = [speed.frame() for _ in range(5)]
    assert rates == [None, pytest.approx(10), pytest.approx(10), None, pytest.approx(2)]


def test_errors_are_one_line_without_paths_of_the_server(page, capsys, monkeypatch):
    import gradio

    from nets.app_page import shown

    for package in ("mediapipe", "dlib"):  # the extra `extract` counts as missing
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(page.detector, "_detector", None)
    bad = page.folder / "0123abcd/bad.png"
    bad.parent.mkdir()
    bad.write_bytes(b"not an image")
    empty = bad.with_name("empty.mp4")
    empty.touch()
    good, name = photo(page, "landmarks"), "runs/landmarks/a"
    grey = bad.with_name("grey.png")
    write_image(grey, torch.zeros(3, 40, 40, dtype=torch.uint8))
    transfer, clip = shown(page, page.transfer), shown(page, page.clip)
    for call, message in (
        (lambda: transfer("landmarks", name, str(bad), good), "bad.png: is not an image"),
        (lambda: transfer("landmarks", name, good, None), "a driving image is needed"),
        (lambda: transfer("landmarks", name, None, good), "a source image is needed"),
        (lambda: transfer("landmarks", "runs/dcign/a", good, good), "a checkpoint of dcign"),
        (lambda: transfer("landmarks", "/etc/passwd", good, good), "not in a folder"),
        (lambda: transfer("landmarks", "runs/a\0b", good, good), "null"),
        (lambda: transfer("bilayer", "runs/bilayer/a", str(grey), good), r"\.\[extract\]"),
        (lambda: list(clip("landmarks", name, good, str(empty), True)), "empty.mp4: is empty"),
        (lambda: list(clip("landmarks", name, good, str(grey), True)), "grey.png: not a video"),
    ):
        with pytest.raises(gradio.Error, match=message) as error:
            call()
        assert str(page.folder) not in error.value.message and "\n" not in error.value.message
    assert capsys.readouterr().err == ""

    def defect():
        raise ZeroDivisionError("secret")

    with pytest.raises(gradio.Error, match=r"a defect of guise \(ZeroDivisionError\)") as error:
        shown(page, defect)()
    assert "secret" not in error.value.message
    assert "secret" in capsys.readouterr().err


@pytest.fixture(scope="module")
def served(runs):
    """The address of a page that app.py serves."""
    pytest.importorskip("gradio", reason="Gradio is not installed")
    with serving(runs, "--max_upload", "0.1") as (url, _):
        yield url


def fetched(url, data=None, **headers):
    """(status, headers, body) of a request."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def upload(url, name, content):
    body = (f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
            ).encode() + content + b"\r\n--x--\r\n"  # fmt: skip
    return fetched(f"{url}gradio_api/upload", body,
                   **{"Content-Type": "multipart/form-data; boundary=x"})  # fmt: skip


def test_the_server_gives_its_own_files_only(served, runs):
    status, headers, body = fetched(served)
    assert status == 200 and b"fonts.googleapis" not in body and b"cdnjs" not in body
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    status, _, sent = upload(served, "small.png", b"x" * 1000)
    (path,) = json.loads(sent)
    assert status == 200 and fetched(f"{served}gradio_api/file={path}")[2] == b"x" * 1000
    for file in ("/etc/passwd", runs / "runs/vunet/a/config.yaml", ROOT / "app.py",
                 f"{path}/../../../../../../../../../../etc/passwd"):  # fmt: skip
        status, _, body = fetched(f"{served}gradio_api/file={file}")
        assert status in (403, 404) and b"root:" not in body
    status, _, _ = upload(served, "large.png", b"x" * 200_000)
    assert status == 413
    assert not list(runs.glob("guise-app-*/**/large.png"))


def test_a_file_that_was_not_uploaded_is_refused(served, tmp_path):
    write_image(tmp_path / "me.png", torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8))
    _, _, sent = upload(served, "me.png", (tmp_path / "me.png").read_bytes())
    (mine,) = json.loads(sent)
    for path, refused in ((mine, False), ("/etc/passwd", True), (tmp_path / "me.png", True)):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        data = {"data": ["runs/landmarks/a", file, {**file, "path": mine}, "as it is"]}
        start = f"{served}gradio_api/call/transfer_landmarks"
        status, _, body = fetched(
            start, json.dumps(data).encode(), **{"Content-Type": "application/json"}
        )
        assert status == 200
        _, _, events = fetched(f"{start}/{json.loads(body)['event_id']}")
        assert (b"event: error" in events) == refused
        assert (b"event: complete" in events) != refused


def test_the_temporary_folder_is_removed(runs, tmp_path):
    pytest.importorskip("gradio", reason="Gradio is not installed")
    with serving(tmp_path) as (url, process):
        upload(url, "small.png", b"x" * 1000)
        assert list(tmp_path.glob("guise-app-*/**/small.png"))
        process.terminate()
        assert process.wait(30) == 0
    assert not list(tmp_path.iterdir())


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as end:
        app.main([])
    line = capsys.readouterr().err.strip()
    assert end.value.code == 2 and "pip install -e '.[app]'" in line and "\n" not in line


def test_help_does_not_load_gradio():
    code = (
        "import app, contextlib, io, sys\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    app.main(['--help'])\n"
        "print(sorted({'gradio', 'fastapi', 'pandas'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def test_sharing_is_off_and_warns(page, monkeypatch, capsys, tmp_path):
    given = {}

    class Blocks:
        def queue(self, **settings):
            return self

        def launch(self, **settings):
            given.update(settings)
            raise OSError("stop here")

    monkeypatch.setattr("nets.app_page.build", lambda page: Blocks())
    for arguments, share in ([], False), (["--share"], True):
        with pytest.raises(UserError, match="stop here"):
            app.serve(parse(app.parser(), arguments), tmp_path / "shared")
        assert given["share"] is share and given["server_name"] == "127.0.0.1"
        assert ("--share: everybody" in capsys.readouterr().err) == share
    assert given["max_file_size"] == 64_000_000 and given["allowed_paths"] == []


def test_a_wrong_folder_is_named(capsys):
    pytest.importorskip("gradio", reason="Gradio is not installed")
    with pytest.raises(SystemExit) as end:
        app.main(["--checkpoints", "absent"])
    assert end.value.code == 2
    assert capsys.readouterr().err.strip().endswith("--checkpoints absent: no such folder")
