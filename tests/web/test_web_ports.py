"""The page's arithmetic in JavaScript against the same functions in Python, by Node."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from nets.bilayer.data import stickmen
from nets.data.heads.faces import (
    crop_square,
    face_crop_box,
    normalised_pose,
    points_in_crop,
    pose_points,
)
from nets.data.io.images import read_image
from nets.run.images import to_uint8
from nets.skeletons import MESH_68

WEB = Path(__file__).parents[2] / "web"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(not NODE, reason="Node.js is not installed")
START = f"""
import * as avatar from "{WEB}/js/avatar.js";
import * as faces from "{WEB}/js/faces.js";
import * as images from "{WEB}/js/images.js";
import {{ readFileSync }} from "node:fs";
const given = JSON.parse(readFileSync(0, "utf8"));
const caught = async (work) => {{
  try {{ await work(); return null; }} catch (error) {{ return error.message; }}
}};
"""


def node(given, expression):
    """The value of an expression of `given`, as JSON."""
    code = f"{START}\nprocess.stdout.write(JSON.stringify(await ({expression})));"
    done = subprocess.run(
        [NODE, "--no-warnings", "--input-type=module", "-e", code],
        input=json.dumps(given), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def some_faces():
    """Points of faces: random ones, ones with halves, and ones far outside of an image."""
    g = random()
    faces = torch.rand(60, 68, 2, generator=g) * 300 * torch.rand(60, 1, 1, generator=g)
    faces[20:40] = (faces[20:40] * 2).round() / 2
    faces[40:] -= 900
    return faces


@needs_node
def test_squares_and_poses_are_those_of_infer():
    points = some_faces()
    boxes = [face_crop_box(at) for at in points]
    poses = [
        normalised_pose(points_in_crop(at, box, 1), 1)
        for at, box in zip(points, boxes, strict=True)
    ]
    got = node(points.tolist(), """given.map((values) => {
        const points = faces.pointsFrom(values, "");
        const box = faces.faceCropBox(points);
        const pose = faces.normalisedPose(points, box);
        return [Object.values(box), [...pose], [...faces.posePoints(pose, 128)]];
    })""")  # fmt: skip
    assert [box for box, _, _ in got] == [list(box) for box in boxes]
    assert torch.equal(torch.tensor([pose for _, pose, _ in got]), torch.stack(poses))
    back = torch.tensor([at for _, _, at in got]).view(-1, 68, 2)
    assert torch.equal(back, pose_points(torch.stack(poses), 128))


@needs_node
@pytest.mark.parametrize("count", [468, 478])
def test_a_mesh_gives_the_68_points_of_the_detectors(count):
    mesh = torch.rand(count, 2, generator=random())
    got = node(mesh.tolist(), "[...faces.meshTo68(given.map(([x, y]) => ({x, y})), 640, 480)]")
    expected = mesh[list(MESH_68)] * torch.tensor([640, 480])
    assert (torch.tensor(got).view(68, 2) - expected).abs().max() < 1e-3  # float32 of pixels


@needs_node
@pytest.mark.parametrize("size, thickness", [(32, 2), (128, 2), (96, 3), (128, 5)])
def test_stick_figures_are_pixel_for_pixel_those_of_python(size, thickness):
    g = random(1)
    poses = torch.rand(12, 136, generator=g) * 2.4 - 1.2  # partly outside
    poses[6:8] *= 0.1  # lines shorter than they are thick
    poses[8, :60] *= 1000  # missing points
    poses[9] = poses[9].view(68, 2)[:1].repeat(68, 1).flatten()  # all in one place
    expected = ((stickmen(poses, size, thickness) + 1) * 127.5).round().byte()
    got = node([poses.tolist(), size, thickness], """given[0].map((pose) =>
        [...faces.stickman(Float32Array.from(pose), given[1], given[2])])""")  # fmt: skip
    assert torch.equal(torch.tensor(got, dtype=torch.uint8).view_as(expected), expected)


BOXES = [(40, 30, 20), (5, 44, 31), (-40, 10, 60), (30, 200, 190), (24, 25, 7), (32, 20, 16)]


@needs_node
@pytest.mark.parametrize("channels", [1, 3])
def test_squares_are_cut_out_and_resized_as_pillow_does(channels):
    image = torch.randint(0, 256, (channels, 45, 67), dtype=torch.uint8, generator=random(2))
    image[:, 10:30, 20:40] = torch.tensor([0, 255], dtype=torch.uint8).repeat(10)  # overshoot
    given = {"pixels": image.permute(1, 2, 0).flatten().tolist(), "boxes": BOXES}
    got = node(given, f"""given.boxes.map(([cx, cy, half]) => [...images.cropSquare(
        {{ width: 67, height: 45, channels: {channels}, data: Uint8Array.from(given.pixels) }},
        {{ cx, cy, half }}, 32).data])""")  # fmt: skip
    for box, pixels in zip(BOXES, got, strict=True):
        pixels = torch.tensor(pixels, dtype=torch.uint8).view(32, 32, channels).permute(2, 0, 1)
        assert torch.equal(pixels, crop_square(image, box, 32)), box


@needs_node
def test_levels_become_floats_and_floats_levels_as_in_python():
    values = torch.rand(3, 16, 16, generator=random(3)) * 2.6 - 1.3
    values[0, 0] = (torch.arange(16) * 2 + 1) / 255 - 1  # halves between two levels
    got = node(values.flatten().tolist(), """[
        [...images.imageFrom(Float32Array.from(given), 16).data],
        Array.from({ length: 256 }, (_, level) => images.signed(level)),
    ]""")  # fmt: skip
    image = torch.tensor(got[0], dtype=torch.uint8).view(16, 16, 3).permute(2, 0, 1)
    assert torch.equal(image, to_uint8(values))
    assert torch.equal(torch.tensor(got[1]), torch.arange(256).float() / 127.5 - 1)


@needs_node
def test_points_of_another_form_are_refused_in_one_line():
    flat = list(range(136))
    given = {"few": flat[:100], "nan": ["a"] * 136, "flat": flat, "none": []}
    got = node(given, """Promise.all([
        caught(() => faces.pointsFrom(given.few, "a.json")),
        caught(() => faces.pointsFrom(given.nan, "a.json")),
        caught(() => faces.pointsFrom({ points: 1 }, "a.json")),
        caught(() => faces.recordingFrom(given.none, "a.json")),
        caught(() => faces.recordingFrom([given.flat, given.few], "a.json")),
        caught(() => faces.faceCropBox(new Float32Array(136))),
        caught(() => faces.faceCropBox(new Float32Array(136).fill(NaN))),
    ])""")  # fmt: skip
    shape = "must hold 68 points, x and y each"
    span = "the points of a face must be finite and span a pixel or more"
    frames = "a.json: must be a list of frames with 68 points each"
    assert got == [*[f"a.json: {shape}"] * 3, frames, f"a.json, frame 1: {shape}", span, span]


FACTS = {"guise_graph": "avatar_frame", "guise_system": "bilayer", "guise_weights": "a",
         "guise_options": '{"image_size": 32, "num_keypoints": 68}'}  # fmt: skip


def onnx_bytes(**facts):
    """A file with the metadata of an ONNX model and a large field before them."""

    def field(number, content):
        size, varint = len(content), b""
        while size > 127:
            varint, size = varint + bytes([size % 128 + 128]), size // 128
        return bytes([number * 8 + 2]) + varint + bytes([size]) + content

    entries = (field(1, k.encode()) + field(2, v.encode()) for k, v in facts.items())
    return list(b"\x08\x0a" + field(7, bytes(40_000)) + b"".join(field(14, e) for e in entries))


@needs_node
def test_files_that_are_no_avatar_are_refused_in_one_line():
    identity = {**FACTS, "guise_graph": "avatar_identity"}
    broken = {**FACTS, "guise_options": '{"num_keypoints": 68, "use_source_background": true}'}
    whole = onnx_bytes(**FACTS)
    pairs = [
        [list(b"not onnx"), whole],
        [whole[:-20], whole],
        [onnx_bytes(), whole],
        [onnx_bytes(guise_graph="vunet", guise_system="vunet"), whole],
        [whole, whole],
        [onnx_bytes(**{**identity, "guise_weights": "b"}), whole],
        [onnx_bytes(**identity), onnx_bytes(**broken)],
    ]
    got = node(pairs, """Promise.all(given.map((pair) => caught(() => {
        const file = (bytes, i) => ({ name: "ab"[i], bytes: Uint8Array.from(bytes) });
        return avatar.Avatar.open(null, pair.map(file));
    })))""")  # fmt: skip
    assert got == [
        "a: is not an ONNX file",
        "a: is not an ONNX file",
        "a: is not a file that export.py wrote",
        "a: a network of vunet, not a head avatar",
        "an avatar is two files of export.py: avatar_identity.onnx and avatar_frame.onnx",
        "b: of other weights than a; export both again",
        "b: this page has no use_source_background",
    ]


@needs_node
def test_the_identity_is_computed_by_wasm_whatever_computes_the_frames():
    """onnxruntime-web 1.30 convolves six channels to wrong values with WebGPU."""
    options = '{"image_size": 32, "num_keypoints": 68, "stickmen_thickness": 2}'
    files = [onnx_bytes(**FACTS | {"guise_graph": graph, "guise_options": options})
             for graph in ("avatar_frame", "avatar_identity")]  # fmt: skip
    got = node(files, """(async () => {
        const asked = [];
        const create = async (bytes, settings) => asked.push(settings.executionProviders);
        const runtime = { provider: "webgpu", ort: { InferenceSession: { create } } };
        const file = (bytes, i) => ({ name: "ab"[i], bytes: Uint8Array.from(bytes) });
        await avatar.Avatar.open(runtime, given.map(file));
        return asked;
    })()""")  # fmt: skip
    assert got == [["wasm"], ["webgpu"]]


def test_no_file_of_the_page_names_another_server():
    files = [WEB / "index.html", WEB / "style.css", *(WEB / "js").iterdir()]
    assert len(files) >= 6
    assert not [file.name for file in files if re.search(r"https?:|[\"'(]//", file.read_text())]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of the files that Python writes for the page."""
    spec = importlib.util.spec_from_file_location("write_files", WEB / "write_files.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("web")
    module.main(["--folder", str(folder)])
    return folder


def test_the_page_has_the_numbers_of_python(written):
    assert (WEB / "tables.json").read_text() == (written / "tables.json").read_text()


def test_the_demo_person_is_that_of_the_demo_world(written):
    for name in ("source.json", "driving.json"):
        ours, new = (np.array(json.loads((f / "demo" / name).read_text())) for f in (WEB, written))
        assert ours.shape[-2:] == (68, 2)
        assert np.abs(ours - new).max() <= 0.11  # written in tenths; processors round differently
    for name in ("source.png", "source_mask.png"):
        ours, new = (read_image(f / "demo" / name, None).float() for f in (WEB, written))
        assert (ours - new).abs().mean() < 0.1
