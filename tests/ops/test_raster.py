"""rasterise and draw_mesh: cases by hand, and the compiled kernels against the reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nets import ops
from nets.ops import draw_mesh, rasterise
from nets.ops.raster import draw_mesh_reference, rasterise_reference

NAN, INF = math.nan, math.inf
HUGE = 3e38


def mesh(*triangles):
    """Points [1, 3T, 3] and triangles [T, 3] of separate triangles."""
    points = torch.tensor([p for t in triangles for p in t], dtype=torch.float32)[None]
    return points, torch.arange(points.shape[1], dtype=torch.int32).view(-1, 3)


def random_mesh(seed, n=2, v=30, t=60, reach=1.4, size=24):
    draw = torch.Generator().manual_seed(seed)
    points = (torch.rand(n, v, 3, generator=draw) - 0.5) * reach * size + size / 2
    triangles = torch.randint(0, v, (t, 3), generator=draw, dtype=torch.int32)
    shades = torch.rand(n, v, 7, generator=draw) * torch.tensor([2.0] * 3 + [60] * 3 + [1.3])
    uv = torch.rand(v, 2, generator=draw) * 1.2 - 0.1
    texture = torch.randint(0, 256, (n, 9, 7, 4), generator=draw, dtype=torch.uint8)
    return points, triangles, shades, uv, texture


def assert_same(arguments, size, samples):
    """All results of the kernels are those of the reference, to the bit."""
    points, triangles = arguments[:2]
    ours, theirs = (
        rasterise(points, triangles, size, samples),
        rasterise_reference(points, triangles, *size, samples),
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    image = draw_mesh(*arguments, size, samples)
    assert torch.equal(image, draw_mesh_reference(*arguments, *size, samples))
    return image


def test_a_square_of_two_triangles_by_hand():
    a, b, c, d = (0.5, 0.5, 1.0), (3.5, 0.5, 1.0), (3.5, 2.5, 4.0), (0.5, 2.5, 4.0)
    points, triangles = mesh((a, b, c), (a, c, d))
    index, weights, depth = rasterise(points, triangles, (4, 5))
    rows = [[-1] * 5, [-1, 1, 0, 0, -1], [-1, 1, 1, 0, -1], [-1] * 5]
    assert index[0].tolist() == rows
    first = 1 - weights.sum(1)
    # Pixel (x 1, y 1) lies a quarter down and a sixth across.
    assert depth[0, 1, 1] == 1.75 and depth[0, 2, 3] == 3.25
    inside = index[0] >= 0
    assert (weights[0, :, ~inside] == 0).all() and (depth[0, ~inside] == -INF).all()
    assert (first[0, inside] > 0).all()


def test_every_sample_has_one_of_the_triangles_that_share_an_edge():
    """A fan around a sample's centre, with edges through other centres."""
    ring = [(8.0, 0.0), (16.0, 8.0), (8.0, 16.0), (0.0, 8.0)]
    count = torch.zeros(17, 17)
    for i in range(4):
        corner = [(8.0, 8.0, 0.0), (*ring[i], 0.0), (*ring[(i + 1) % 4], 0.0)]
        count += (rasterise(*mesh(corner), 17)[0][0] >= 0).float()
    assert count.max() == 1
    x, y = torch.meshgrid(torch.arange(17.0), torch.arange(17.0), indexing="xy")
    assert (count[(x - 8).abs() + (y - 8).abs() < 8] == 1).all()


def test_nearer_is_larger_and_of_equals_the_first():
    near = [(-9.0, -9.0, 2.0), (20.0, -9.0, 2.0), (-9.0, 20.0, 2.0)]
    far = [(x, y, 1.0) for x, y, _ in near]
    for order, winner in (((near, far), 0), ((far, near), 1), ((near, near), 0)):
        assert (rasterise(*mesh(*order), 4)[0] == winner).all()


def test_a_triangle_seen_from_behind_is_left_out():
    front = [(0.0, 0.0, 0.0), (9.0, 0.0, 0.0), (0.0, 9.0, 0.0)]
    assert (rasterise(*mesh(front), 5)[0] == 0).any()
    assert (rasterise(*mesh(front[::-1]), 5)[0] == -1).all()


def test_texture_gain_gloss_and_opacity_by_hand():
    square = [(-0.5, -0.5, 0.0), (1.5, -0.5, 0.0), (1.5, 1.5, 0.0), (-0.5, 1.5, 0.0)]
    points = torch.tensor([square])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    texture = torch.tensor([[[[10, 20, 30, 0], [40, 50, 60, 255]], [[1, 2, 3, 128], [0, 0, 0, 0]]]])
    shades = torch.tensor([2.0, 1.0, 0.5, 0.0, 5.0, 0.0, 1.0]).expand(1, 4, 7).clone()
    image = draw_mesh(points, triangles, shades, uv, texture.byte(), 2)
    assert image[0, :, 0, 0].tolist() == [20, 25, 15, 255]
    assert image[0, :, 0, 1].tolist() == [80, 55, 30, 255]
    shades[..., 6] = 0.5  # only the texels that add half or more are drawn
    covered = draw_mesh(points, triangles, shades, uv, texture.byte(), 2)[0, 3]
    assert covered.tolist() == [[0, 255], [255, 0]]
    shades[..., 0] = 1e30
    assert draw_mesh(points, triangles, shades, uv, texture.byte(), 2)[0, 0, 0, 1] == 255


def test_supersampling_is_the_mean_of_the_samples():
    arguments = random_mesh(3)
    arguments[2][..., 6] = 1
    fine = draw_mesh(arguments[0] * 2 + 0.5, *arguments[1:], 48)
    mean = torch.nn.functional.avg_pool2d(fine.double(), 2)
    # Levels of the samples are rounded once in the one image and twice in the other.
    assert (draw_mesh(*arguments, 24, 2).double() - mean).abs().max() <= 1.01


@pytest.mark.parametrize("samples", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [(1, 1), (24, 24), (7, 33)], ids=str)
def test_compiled_is_the_reference(size, samples):
    for seed in range(3):
        assert_same(random_mesh(seed), size, samples)


def test_compiled_is_the_reference_on_many_small_triangles():
    image = assert_same(random_mesh(5, n=1, v=300, t=3000), (40, 30), 2)
    assert image[:, 3].float().mean() > 100


ODD = st.sampled_from([NAN, INF, -INF, HUGE, -HUGE, 16383.0, -16383.0, 16384.0, 0.0, -0.5, 1e-40])


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_any_value_is_safe(data):
    """Any coordinate, weight, shade and place in the texture; the sanitised run checks bounds."""
    points, triangles, shades, uv, texture = random_mesh(data.draw(st.integers(0, 99)), v=9, t=12)
    for values in (points, shades, uv):
        flat = values.view(-1)
        for place in data.draw(st.lists(st.integers(0, len(flat) - 1), max_size=9)):
            flat[place] = data.draw(ODD | st.integers(-40, 40).map(float))
    if data.draw(st.booleans()):
        points[..., :2] = points[..., :2].round()  # samples on edges, degenerate triangles
    assert_same((points, triangles, shades, uv, texture), (9, 11), data.draw(st.integers(1, 3)))


def test_a_triangle_larger_than_the_image_and_one_without_area():
    huge = [(-16000.0, -16000.0, 0.0), (16000.0, -16000.0, 1.0), (0.0, 16000.0, 2.0)]
    line = [(0.0, 0.0, 5.0), (4.0, 4.0, 5.0), (8.0, 8.0, 5.0)]
    points, triangles = mesh(huge, line, [line[0]] * 3)
    index = rasterise(points, triangles, 8)[0]
    assert (index == 0).all()
    assert torch.equal(index, rasterise_reference(points, triangles, 8, 8, 1)[0])


def test_empty_inputs():
    points, triangles, shades, uv, texture = random_mesh(0)
    assert draw_mesh(points[:0], triangles, shades[:0], uv, texture[:0], 8).shape == (0, 4, 8, 8)
    assert [len(x) for x in rasterise(points[:0], triangles, 8)] == [0, 0, 0]
    assert not draw_mesh(points, triangles[:0], shades, uv, texture, 8).any()
    none = points[:, :0], triangles[:0], shades[:, :0], uv[:0], texture
    assert_same(none, (8, 8), 1)


def test_strides_do_not_matter_and_no_gradient_flows():
    points, triangles, shades, uv, texture = random_mesh(0)
    expected = draw_mesh(points, triangles, shades, uv, texture, 24)
    turned = points.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    image = draw_mesh(
        turned, triangles.t().contiguous().t(), shades.flip(0).flip(0), uv, texture, 24
    )
    assert torch.equal(image, expected) and not image.requires_grad
    one = points[:1].expand(3, -1, -1)
    assert torch.equal(rasterise(one, triangles, 24)[0][2], rasterise(points, triangles, 24)[0][0])


def test_works_in_graphs():
    arguments = random_mesh(1)

    def draw(points):
        return torch.ops.guise.draw_mesh(points, *arguments[1:], 16, 16, 2)

    compiled = torch.compile(draw, fullgraph=True, backend="eager")
    assert torch.equal(compiled(arguments[0]), draw(arguments[0]))
    torch.library.opcheck(torch.ops.guise.draw_mesh, (*arguments, 16, 16, 2))
    torch.library.opcheck(torch.ops.guise.rasterise, (*arguments[:2], 16, 16, 2))


@pytest.mark.parametrize(
    ("place", "value", "error", "text"),
    [
        (0, torch.zeros(2, 30, 3).double(), TypeError, "points must be float32"),
        (0, torch.zeros(2, 30, 2), ValueError, r"points must be \[N, V, 3\], got \[2, 30, 2\]"),
        (1, torch.zeros(4, 3).long(), TypeError, "triangles must be int32"),
        (1, torch.zeros(4, 2).int(), ValueError, r"triangles must be \[T, 3\]"),
        (
            1,
            torch.full((4, 3), 30).int(),
            ValueError,
            "triangles must be numbers of points, 0 to 29, got 30 to 30",
        ),
        (
            1,
            torch.full((4, 3), -1).int(),
            ValueError,
            "triangles must be numbers of points, 0 to 29, got -1 to -1",
        ),
        (2, torch.zeros(2, 30, 6), ValueError, r"shades must be \[2, 30, 7\]"),
        (2, torch.zeros(2, 30, 7).half(), TypeError, "shades must be torch.float32"),
        (3, torch.zeros(29, 2), ValueError, r"uv must be \[30, 2\]"),
        (4, torch.zeros(2, 8, 8, 3).byte(), ValueError, r"texture must be \[2, 8, 8, 4\]"),
        (4, torch.zeros(2, 0, 8, 4).byte(), ValueError, "texture must have 1 to 4096 texels"),
        (5, 0, ValueError, "size must be 1 to 4096 pixels, got 0"),
        (5, (8, 5000), ValueError, r"size must be .* got \(8, 5000\)"),
        (6, 9, ValueError, "samples must be 1 to 8, got 9"),
    ],
)
def test_bad_arguments_are_named(place, value, error, text):
    arguments = [*random_mesh(0), 8, 1]
    arguments[place] = value
    with pytest.raises(error, match=f"draw_mesh: {text}"):
        draw_mesh(*arguments)


def test_the_kernel_refuses_what_could_read_out_of_bounds():
    if ops.kernel("draw_mesh", "cpu") != "compiled":
        pytest.skip("nothing compiled")
    good = [*random_mesh(0), 8, 8, 1]
    for place, value in (
        (1, torch.full((4, 3), 30).int()),
        (1, torch.full((4, 3), -1).int()),
        (2, torch.zeros(2, 30, 6)),
        (2, torch.zeros(1, 30, 7)),
        (3, torch.zeros(29, 2)),
        (4, torch.zeros(1, 8, 8, 4).byte()),
        (4, torch.zeros(2, 8, 8, 3).byte()),
        (5, 0),
        (7, 99),
    ):
        arguments = list(good)
        arguments[place] = value
        with pytest.raises(RuntimeError):
            torch.ops.guise.draw_mesh(*arguments)
    with pytest.raises(RuntimeError):
        torch.ops.guise.rasterise(good[0], torch.full((4, 3), 30).int(), 8, 8, 1)
