"""draw_skeleton against OpenCV and Pillow, and the compiled kernel against the reference."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torch.fx.experimental.proxy_tensor import make_fx

from nets import skeletons as sk
from nets.ops import draw_skeleton
from nets.ops.skeleton import Stroke, skeleton
from nets.ops.strokes import OPENCV, PILLOW, draw_skeleton_reference

NAN = math.nan
STYLES = {"parts": sk.PARTS_STYLE, "image": sk.IMAGE_STYLE, "face": sk.FACE_68}


def reference(points, drawn, h, w):
    style = [drawn.channels, drawn.background, drawn.raster]
    style += [max(1, drawn.thickness(h)), drawn.radius(h), drawn.corners]
    return draw_skeleton_reference(points.float(), list(drawn.program), style, h, w)


def figure(kind, count, raster=OPENCV, thickness=3, also=0, **more):
    """One stroke on the first `count` joints, which needs the `also` joints behind them."""
    others = tuple(range(count, count + also))
    stroke = Stroke(
        kind, tuple(range(count)), (255,), more.pop("rule", "finite"), also=others, **more
    )
    return skeleton(
        count + also, 1, [stroke], lambda _: thickness, lambda _: thickness, raster=raster
    )


def points_of(*rows):
    return torch.tensor([rows], dtype=torch.float32)


def opencv_parts(joints: np.ndarray, size: int) -> np.ndarray:
    """The figure of Esser et al. 2018, drawn with OpenCV, for joints that are all present."""
    at = dict(zip(sk.JOINTS_15, joints, strict=True))
    canvas = np.zeros((3, size, size), np.uint8)

    def stroke(channel, a, b, value=255):
        ends = [tuple(int(v) for v in np.trunc(p)) for p in (a, b)]
        cv2.line(canvas[channel], *ends, value, int(3 * size / 128))

    trunk = np.int32([np.trunc(at[n]) for n in ("lhip", "lshoulder", "rshoulder", "rhip")])
    cv2.fillPoly(canvas[2], [trunk], 255)
    for channel, s in enumerate("rl"):
        chain = [at[s + n] for n in ("ankle", "knee", "hip", "shoulder", "elbow", "wrist")]
        for i in range(5):
            stroke(channel, chain[i], chain[i + 1])
    for channel in (0, 1):
        neck = (at["rshoulder"] + at["lshoulder"]) * np.float32(0.5)
        stroke(channel, neck, at["cnose"], 127)
    stroke(0, at["cnose"], at["reye"])
    stroke(1, at["cnose"], at["leye"])
    return canvas


def pillow_image(points: np.ndarray, size: int) -> np.ndarray:
    """The figure of the image variant, drawn with Pillow, for keypoints that are all present."""
    image = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(image)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    lines = ["2-3 3-4 2-8 8-9 9-10", "16-14 14-0 0-15 15-17 0-1", "5-6 6-7 5-11 11-12 12-13"]
    dots = ["2 3 4 8 9 10", "0 1 14 15 16 17", "5 6 7 11 12 13"]
    places = [tuple(map(float, p)) for p in points]
    draw.polygon([places[i] for i in (1, 2, 8, 11, 5)], fill=colours[1])
    for colour, group in zip(colours, lines, strict=True):
        for pair in group.split():
            draw.line([places[int(i)] for i in pair.split("-")], fill=colour, width=4)
    for colour, group in zip(colours, dots, strict=True):
        for x, y in (places[int(i)] for i in group.split()):
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
    return np.array(image).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_parts_are_opencvs_pixel_for_pixel(size):
    at = torch.rand(20, 15, 2, generator=torch.Generator().manual_seed(size))
    at = at * (size - 20) + 10  # OpenCV clips lines that leave the image; see below
    ours = draw_skeleton(at, sk.PARTS_STYLE, size).numpy()
    for joints, image in zip(at.numpy(), ours, strict=True):
        np.testing.assert_array_equal(image, opencv_parts(joints, size))


def test_image_style_is_pillows_except_at_tips_of_the_trunk():
    at = torch.rand(20, 18, 2, generator=torch.Generator().manual_seed(0)) * 236 + 10
    ours = draw_skeleton(at, sk.IMAGE_STYLE, 256).numpy()
    for points, image in zip(at.numpy(), ours, strict=True):
        differ = (image != pillow_image(points, 256)).any(0).sum()
        # Pillow lengthens the sharp tips of a polygon by a few pixels, differently by version.
        assert differ <= 20


def test_face_lines_are_opencvs_pixel_for_pixel():
    at = torch.rand(5, 68, 2, generator=torch.Generator().manual_seed(0)) * 236 + 10
    ours = draw_skeleton(at, sk.FACE_68, 256).numpy()
    groups = {(0, 17): (255, 255, 255), (17, 22): (255, 0, 0), (22, 27): (0, 255, 0)}
    groups |= {(31, 36): (0, 0, 255), (36, 42): (255, 0, 255), (42, 48): (0, 255, 255)}
    groups |= {(48, 60): (255, 255, 0), (60, 68): (255, 255, 0)}
    for points, image in zip(at.numpy().astype(np.int32), ours, strict=True):
        canvas = np.ones((256, 256, 3), np.uint8)
        for (first, last), colour in groups.items():
            if first == 31:
                bridge = [points[[27, 28, 29, 30, 30, 33]]]
                cv2.polylines(canvas, bridge, False, (0, 0, 255), 2)
            cv2.polylines(canvas, [points[first:last]], first >= 36, colour, 2)
        np.testing.assert_array_equal(image, canvas.transpose(2, 0, 1))


@pytest.mark.parametrize("thickness", [1, 2, 3, 6, 7])
def test_lines_that_leave_the_image_are_opencvs_within_a_pixel(thickness):
    at = torch.randint(-30, 95, (40, 2, 2), generator=torch.Generator().manual_seed(1))
    ours = draw_skeleton(at.float(), figure("line", 2, thickness=thickness), 64)[:, 0].numpy()
    around = np.ones((3, 3), np.uint8)
    for (a, b), image in zip(at.tolist(), ours, strict=True):
        theirs = cv2.line(np.zeros((64, 64), np.uint8), a, b, 255, thickness)
        for one, other in ((image, theirs), (theirs, image)):
            assert not (one & ~cv2.dilate(other, around))[2:-2, 2:-2].any()


@pytest.mark.parametrize("raster", [OPENCV, PILLOW])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_line_is_that_of_its_library(raster, data):
    x = st.integers(12, 51)
    a, b = data.draw(st.tuples(x, x)), data.draw(st.tuples(x, x))
    thickness = data.draw(st.integers(2, 9))
    ours = draw_skeleton(points_of(a, b), figure("line", 2, raster, thickness), 64)[0, 0].numpy()
    if raster == OPENCV:
        theirs = cv2.line(np.zeros((64, 64), np.uint8), a, b, 255, thickness)
    else:
        image = Image.new("L", (64, 64))
        ImageDraw.Draw(image).line([a, b], fill=255, width=thickness)
        theirs = np.array(image)
    np.testing.assert_array_equal(ours, theirs)


@given(st.lists(st.tuples(*[st.integers(2, 61)] * 2), min_size=3, max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_polygon_is_opencvs_crossed_or_not(corners):
    ours = draw_skeleton(points_of(*corners), figure("fill", len(corners)), 64)[0, 0].numpy()
    theirs = cv2.fillPoly(np.zeros((64, 64), np.uint8), [np.int32(corners)], 255)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("size", [(1, 1), (7, 30), (48, 48), (90, 131)], ids=str)
def test_compiled_is_the_reference(name, size, device):
    drawn = STYLES[name]
    at = torch.rand(3, drawn.joints, 2, generator=torch.Generator().manual_seed(5)) * 180 - 40
    at[1, ::5] = NAN
    at[2, 3], at[2, 4] = math.inf, 1e9
    ours = draw_skeleton(at.to(device), drawn, size)
    assert ours.shape == (3, 3, *size) and ours.dtype == torch.uint8
    assert torch.equal(ours.cpu(), reference(at, drawn, *size))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_compiled_is_the_reference_for_any_stroke(data):
    kind = data.draw(st.sampled_from(["line", "fill", "dot"]))
    count = {"line": 2, "dot": 1}.get(kind) or data.draw(st.integers(3, 6))
    more = {"partial": data.draw(st.booleans())} if kind == "fill" else {}
    also = data.draw(st.integers(0, 2))
    rule = data.draw(st.sampled_from(["positive", "truncated", "marked", "finite"]))
    raster, thickness = data.draw(st.sampled_from([OPENCV, PILLOW])), data.draw(st.integers(1, 12))
    drawn = figure(kind, count, raster, thickness, rule=rule, also=also, **more)
    count += also
    x = st.sampled_from([NAN, math.inf, -0.5, 0.0, -3e38, 16383.0]) | st.floats(-40, 70, width=32)
    at = points_of(*data.draw(st.lists(st.tuples(x, x), min_size=count, max_size=count)))
    assert torch.equal(draw_skeleton(at, drawn, (33, 20)), reference(at, drawn, 33, 20))


@pytest.mark.parametrize(
    ("rule", "position", "present"),
    [
        ("positive", (0.0, 0.0), True),
        ("positive", (-0.1, 5.0), False),
        ("truncated", (-0.9, 5.0), True),
        ("truncated", (-1.0, 5.0), False),
        ("marked", (0.0, 0.0), False),
        ("marked", (0.0, 5.0), True),
        ("marked", (5.0, -1.0), False),
        ("finite", (-3.0, 5.0), True),
        *((rule, (NAN, 5.0), False) for rule in ("positive", "truncated", "marked", "finite")),
        ("finite", (5.0, math.inf), False),
    ],
)
def test_a_line_needs_both_its_ends(rule, position, present):
    drawn = figure("line", 2, rule=rule)
    assert bool(draw_skeleton(points_of((20.0, 9.0), position), drawn, 32).any()) is present


def test_a_partial_polygon_needs_all_its_other_joints():
    drawn = figure("fill", 4, also=1, partial=True)
    corners = [(2.0, 2.0), (28.0, 4.0), (20.0, 28.0), (NAN, NAN)]
    for other, present in (((5.0, 5.0), True), ((NAN, NAN), False)):
        at = points_of(*corners, other)
        assert bool(draw_skeleton(at, drawn, 32).any()) is present
        assert bool(reference(at, drawn, 32, 32).any()) is present


def test_neck_is_half_as_bright_and_eyes_go_together():
    at = torch.full((2, 15, 2), NAN)
    for name, place in {"rshoulder": (20, 40), "lshoulder": (40, 40), "cnose": (30, 20)}.items():
        at[:, sk.JOINTS_15.index(name)] = torch.tensor(place, dtype=torch.float32)
    at[:, sk.JOINTS_15.index("reye")] = torch.tensor([26.0, 16.0])
    at[1, sk.JOINTS_15.index("leye")] = torch.tensor([34.0, 16.0])
    one_eye, both = draw_skeleton(at, sk.PARTS_STYLE, 64)
    assert one_eye.unique().tolist() == [0, 127] and one_eye[2].sum() == 0
    assert both[0, 16, 26] == 255 and both[1, 16, 34] == 255 and both[0, 30, 30] == 127


def test_trunk_of_the_image_style_uses_the_corners_that_are_present():
    at = torch.zeros(3, 18, 2)  # (0, 0) marks a missing point
    for count, corners in enumerate(((1, 2, 8), (1, 2), ())):
        for i in corners:
            at[count, i] = torch.tensor([40.0, 20.0 + 10 * i])
            at[count, i, 0] += 20 * (i % 3)
    three, two, none = (draw_skeleton(at, sk.IMAGE_STYLE, 128)[:, 1] > 0).sum((1, 2)).tolist()
    assert three > 500 and two < 60 and none == 0  # two: the neck's dot


def test_stickman_converts_orders_and_scales():
    joints = torch.rand(2, 17, 2, generator=torch.Generator().manual_seed(0)) * 64
    for style, (drawn, names) in sk.STYLES.items():
        expected = draw_skeleton(sk.convert_joints(joints, sk.COCO_17, names), drawn, 64)
        assert torch.equal(sk.stickman(joints, 64, style, sk.COCO_17), expected)
    with pytest.raises(ValueError, match="style must be one of parts, image, got 'face'"):
        sk.stickman(joints, 64, "face")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_and_layouts_draw_the_same(dtype, device):
    at = torch.randint(0, 64, (2, 2, 15), generator=torch.Generator().manual_seed(0)).float()
    at = at.to(device).transpose(1, 2)
    expected = draw_skeleton(at.contiguous(), sk.PARTS_STYLE, 64)
    assert torch.equal(draw_skeleton(at.to(dtype), sk.PARTS_STYLE, 64), expected)
    wide = at[:1].expand(3, 15, 2)
    assert torch.equal(draw_skeleton(wide, sk.PARTS_STYLE, 64), expected[:1].expand(3, 3, 64, 64))
    assert draw_skeleton(at[:0], sk.PARTS_STYLE, 64).shape == (0, 3, 64, 64)


def test_works_in_graphs_and_under_vmap():
    at = torch.rand(4, 15, 2, generator=torch.Generator().manual_seed(0)) * 32

    def draw(points):
        return draw_skeleton(points, sk.PARTS_STYLE, 32)

    expected = draw(at)
    assert torch.equal(torch.compile(draw, fullgraph=True, backend="eager")(at), expected)
    assert torch.equal(torch.vmap(draw)(at.view(2, 2, 15, 2)).flatten(0, 1), expected)
    assert torch.equal(make_fx(draw, tracing_mode="fake")(at)(at), expected)
    program, style = list(sk.PARTS_STYLE.program), [3, 0, 0, 3, 3, sk.PARTS_STYLE.corners]
    torch.library.opcheck(torch.ops.guise.draw_skeleton, (at, program, style, 32, 32))


def test_no_gradient_flows_and_autocast_changes_nothing():
    at = torch.rand(1, 15, 2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = draw_skeleton(at * 200, sk.PARTS_STYLE, 256)
    assert not out.requires_grad
    assert torch.equal(out, draw_skeleton(at.detach() * 200, sk.PARTS_STYLE, 256))


@pytest.mark.parametrize(
    ("points", "size", "error", "text"),
    [
        (torch.zeros(1, 15, 2).int(), 64, TypeError, "points must be a floating tensor"),
        (torch.zeros(1, 14, 2), 64, ValueError, r"points must be \[N, 15, 2\], got \[1, 14, 2\]"),
        (torch.zeros(1, 15, 2), 0, ValueError, "size must be 1 to 16383 pixels, got 0"),
        (torch.zeros(1, 15, 2), (8, 20000), ValueError, r"size must be .* got \(8, 20000\)"),
    ],
)
def test_bad_arguments_are_named(points, size, error, text):
    with pytest.raises(error, match=f"draw_skeleton: {text}"):
        draw_skeleton(points, sk.PARTS_STYLE, size)


@pytest.mark.parametrize(
    "stroke",
    [
        Stroke("line", (0, 1, 2), (255,)),
        Stroke("fill", (0, 1), (255,)),
        Stroke("dot", (3,), (255,)),
        Stroke("dot", (0,), (255, 0)),
        Stroke("dot", (0,), (255,), also=(-1,)),
    ],
    ids=["3 ends", "2 corners", "no such joint", "2 colours", "negative"],
)
def test_a_wrong_stroke_is_refused(stroke):
    with pytest.raises(ValueError, match="strokes must fit 3 joints and 1 channels, got Stroke"):
        skeleton(3, 1, [stroke], int)


def test_the_kernel_refuses_what_could_read_out_of_bounds():
    if __import__("nets.ops", fromlist=["kernel"]).kernel("draw_skeleton", "cpu") != "compiled":
        pytest.skip("nothing compiled")
    at, style = torch.zeros(1, 2, 2), [1, 0, 0, 3, 3, 1]
    for program in ([2, 1, 0, 0, 0, 9, 5, 5], [2, 7, 0, 0, 0, 9, 0, 0], [0, 1, 0, 0, 0, 9, 0, 0]):
        with pytest.raises(RuntimeError):
            torch.ops.guise.draw_skeleton(at, program, style, 8, 8)
