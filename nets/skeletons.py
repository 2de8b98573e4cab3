"""Joints of bodies and points of faces: joint orders, body-part boxes, stick figures.

Joints are (x, y) in pixels of the square image that a network sees. A joint is missing if a
coordinate is negative or NaN. A joint beyond the right or lower border is not missing. "r" and "l"
are the person's own sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.ops.skeleton import Skeleton, Stroke, draw_skeleton, skeleton
from nets.ops.strokes import PILLOW


def _names(*lines: str) -> tuple[str, ...]:
    return tuple(" ".join(lines).split())


JOINTS_15 = _names(
    "rankle rknee rhip rshoulder relbow rwrist reye",
    "lankle lknee lhip lshoulder lelbow lwrist leye cnose",
)
JOINTS_17 = (*JOINTS_15, "rear", "lear")  # of datasets and detectors; ears may be missing
# Also the column order of the keypoint files of Market-1501 and DeepFashion.
OPENPOSE_18 = _names(
    "cnose cneck rshoulder relbow rwrist lshoulder lelbow lwrist",
    "rhip rknee rankle lhip lknee lankle reye leye rear lear",
)
OPENPOSE_25 = _names(
    "cnose cneck rshoulder relbow rwrist lshoulder lelbow lwrist chip rhip rknee rankle",
    "lhip lknee lankle reye leye rear lear lbigtoe lsmalltoe lheel rbigtoe rsmalltoe rheel",
)
COCO_17 = _names(
    "cnose leye reye lear rear lshoulder rshoulder lelbow relbow lwrist rwrist",
    "lhip rhip lknee rknee lankle rankle",
)
MEDIAPIPE_33 = _names(
    "cnose leyeinner leye leyeouter reyeinner reye reyeouter lear rear lmouth rmouth",
    "lshoulder rshoulder lelbow relbow lwrist rwrist lpinky rpinky lindex rindex lthumb rthumb",
    "lhip rhip lknee rknee lankle rankle lheel rheel lbigtoe rbigtoe",
)
ORDERS = {
    "joints15": JOINTS_15,
    "openpose18": OPENPOSE_18,
    "openpose25": OPENPOSE_25,
    "coco17": COCO_17,
    "mediapipe33": MEDIAPIPE_33,
}
_MIDPOINTS = {"cneck": ("lshoulder", "rshoulder"), "chip": ("lhip", "rhip")}


def valid_joints(joints: Tensor) -> Tensor:
    """True for joints that are not missing, (..., J) from (..., J, 2): both coordinates >= 0."""
    return (joints >= 0).all(-1)


def convert_joints(joints: Tensor, source: Sequence[str], target: Sequence[str]) -> Tensor:
    """The joints in another order, matched by name.

    joints   (..., len(source), 2) floating point
    source   names along the second last axis; names that `target` lacks are dropped
    target   names of the result
    returns  (..., len(target), 2). A name that `source` lacks is NaN. A missing neck or hip centre
             becomes the midpoint of the two shoulders or hips where both are valid.
    """
    if joints.ndim < 2 or joints.shape[-1] != 2 or joints.shape[-2] != len(source):
        raise ValueError(
            f"convert_joints: joints must be (..., {len(source)}, 2), got {list(joints.shape)}"
        )
    if not joints.is_floating_point():
        raise TypeError(f"convert_joints: joints must be floating point, got {joints.dtype}")
    place = {name: i for i, name in enumerate(source)}
    missing = joints.new_full((*joints.shape[:-2], 2), torch.nan)

    def find(name: str) -> Tensor:
        own = joints[..., place[name], :] if name in place else missing
        ends = [place.get(end) for end in _MIDPOINTS.get(name, ())]
        if not ends or None in ends:
            return own
        pair = joints[..., ends, :]
        usable = valid_joints(pair).all(-1) & ~valid_joints(own)
        return torch.where(usable[..., None], pair.mean(-2), own)

    if not target:
        return joints[..., :0, :]
    return torch.stack([find(name) for name in target], -2)


# Vertices of MediaPipe's face mesh (468 points, or 478 with irises) at the places of the 68 points
# of iBUG. The jaw is the mesh's outline; where a turned head hides it, annotators and mesh differ.
MESH_68 = (
    *(127, 234, 93, 132, 58, 136, 149, 176, 152, 400, 378, 365, 288, 361, 323, 454, 356),  # jaw
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),  # right and left brow
    *(168, 197, 5, 4, 98, 97, 2, 326, 327),  # nose: bridge, base
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # right and left eye
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lips
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lips
)


# --- body parts ---------------------------------------------------------------------------------

PARTS = (  # in the order of the network's input; lower legs have no part
    ("lshoulder", "lhip", "rhip", "rshoulder"),
    ("lshoulder", "rshoulder", "cnose"),
    ("lshoulder", "lelbow"),
    ("lelbow", "lwrist"),
    ("rshoulder", "relbow"),
    ("relbow", "rwrist"),
    ("lhip", "lknee"),
    ("rhip", "rknee"),
)


def part_corners(joints: Tensor, size: int) -> Tensor:
    """Four corners of each of the eight body parts in the image, NaN where a part is missing.

    joints   (N, 15, 2) pixels, in the order of JOINTS_15
    size     side of the image, pixels
    returns  (N, 8, 4, 2) float64: the top left, bottom left, bottom right and top right corners of
             each crop; parts in the order of PARTS

    The trunk's corners are its joints. A limb lies along the middle of its box, which is half as
    wide as long. The head's box is a square from the neck through the nose, twice that distance
    high; without a nose it stands on the shoulders. A thigh without a knee extends straight down to
    the border. Esser, Sutter, Ommer 2018, section 3.4. A box of less than one square pixel counts
    as missing: its homography would show unrelated pixels.
    """
    if joints.ndim != 3 or joints.shape[1:] != (15, 2):
        raise ValueError(f"part_corners: joints must be (N, 15, 2), got {list(joints.shape)}")
    joints = joints.double()
    joints = torch.where(valid_joints(joints)[..., None], joints, torch.nan)

    def at(name: str) -> Tensor:  # (N, 2); missing joints are NaN and so are their results
        return joints[:, JOINTS_15.index(name)]

    def limb(p0: Tensor, p1: Tensor) -> Tensor:
        n = _perpendicular(p1 - p0) / 4
        return torch.stack([p0 + n, p0 - n, p1 - n, p1 + n], 1)

    def thigh(hip: Tensor, knee: Tensor) -> Tensor:
        down = torch.stack([hip[:, 0], torch.full_like(hip[:, 0], size - 1)], 1)
        return limb(hip, torch.where(knee.isnan().any(1, keepdim=True), down, knee))

    left, right, nose = at("lshoulder"), at("rshoulder"), at("cnose")
    neck = (left + right) / 2
    top = neck + 2 * (nose - neck)
    n = _perpendicular(neck - top) / 2
    head = torch.stack([top - n, neck - n, neck + n, top + n], 1)
    up = _perpendicular(right - left)
    up = torch.where(up[:, 1:] > 0, -up, up)
    head_without_nose = torch.stack([left + up, left, right, right + up], 1)
    boxes = torch.stack(
        [
            torch.stack([at(name) for name in PARTS[0]], 1),
            torch.where(nose.isnan().any(1)[:, None, None], head_without_nose, head),
            *(limb(at(a), at(b)) for a, b in PARTS[2:6]),
            *(thigh(at(a), at(b)) for a, b in PARTS[6:]),
        ],
        1,
    )
    x, y = boxes.unbind(-1)
    area = (x * y.roll(-1, -1) - x.roll(-1, -1) * y).sum(-1).abs() / 2
    return torch.where((area >= 1)[..., None, None], boxes, torch.nan)


def _perpendicular(v: Tensor) -> Tensor:
    return torch.stack([-v[..., 1], v[..., 0]], -1)


def part_homographies(joints: Tensor, size: int, box_factor: int) -> Tensor:
    """Homographies from each body-part crop to the image, for `ops.perspective_crops`.

    joints      (N, 15, 2) pixels of the image, in the order of JOINTS_15
    size        side of the image, pixels
    box_factor  a crop's side is s = size // 2**box_factor
    returns     (N, 8, 3, 3) float32, computed in float64: maps a pixel (x, y, 1) of the crop to a
                pixel of the image, and (0, 0), (0, s), (s, s), (s, 0) to the corners of
                `part_corners`. NaN for missing parts. No gradients.
    """
    side = size >> box_factor
    if box_factor < 0 or side < 1:
        raise ValueError(
            "part_homographies: box_factor must leave crops of at least one pixel,"
            f" got {box_factor} for size {size}"
        )
    # The unit square onto four corners in closed form: Heckbert 1989, section 2.2.3.
    p0, p3, p2, p1 = part_corners(joints.detach(), size).unbind(2)  # p1 at (1, 0), p3 at (0, 1)
    d1, d2, total = p1 - p2, p3 - p2, p0 - p1 + p2 - p3
    twist = _cross(d1, d2)
    g, h = _cross(total, d2) / twist, _cross(d1, total) / twist
    columns = [p1 - p0 + g[..., None] * p1, p3 - p0 + h[..., None] * p3, p0]
    matrix = torch.cat(
        [torch.stack(columns, -1), torch.stack([g, h, torch.ones_like(g)], -1)[..., None, :]], -2
    )
    matrix = matrix / matrix.new_tensor([side, side, 1])
    whole = matrix.isfinite().all(-1).all(-1)[..., None, None]  # collinear corners: no homography
    return torch.where(whole, matrix, torch.nan).float()


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


# --- proportions --------------------------------------------------------------------------------

TRUNK = ("chip", "cneck")
LIMBS = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))
# A turning body or head changes these distances, so they are a matter of the pose.
_BESIDE = {"shoulder": "cneck", "hip": "chip", "eye": "cneck", "ear": "cneck"}


def limb_lengths(joints: Tensor, order: Sequence[str] = JOINTS_17) -> Tensor:
    """The lengths of the trunk and of the limbs of LIMBS, (..., 5); NaN if unknown.

    joints  (..., len(order), 2), one unit in both directions; missing: negative or NaN
    A limb has the length of its longer side; the other one is foreshortened. The trunk reaches from
    the middle of the hips to the neck.
    """
    at = _by_name(joints, order)
    lengths = [(at[TRUNK[1]] - at[TRUNK[0]]).norm(dim=-1)]
    for a, b in LIMBS:
        right, left = ((at[side + b] - at[side + a]).norm(dim=-1) for side in "rl")
        lengths.append(torch.fmax(right, left))
    return torch.stack(lengths, -1)


def keep_proportions(
    source: Tensor, driving: Tensor, size: tuple[float, float], order: Sequence[str] = JOINTS_17
) -> Tensor:
    """The driving poses of a body with the source's limbs, (N, J, 2); missing joints are NaN.

    source   (J, 2), order as in `order`; its `limb_lengths` are taken in one scale for all limbs
    driving  (N, J, 2) pixels; directions and foreshortening, shoulders, hips and head are taken
    size     (width, height) of the driving images, pixels
    The limbs together are as long as the driving ones. Feet stay on the driving ground, and the
    middle of the hips in its column. If a joint or the crown would leave the image, the figure
    shrinks towards the ground. A limb that is unknown in the source keeps the driving length.
    """
    at = _by_name(driving, order)
    own, given = limb_lengths(driving, order), limb_lengths(source, order)
    shared = own.isfinite() & given.isfinite()
    scale = own.where(shared, 0).sum(-1) / given.where(shared, 0).sum(-1)
    ratio = scale[:, None] * given / own
    growth = torch.where(ratio.isfinite(), ratio - 1, 0)[..., None]  # (N, 5, 1)

    def end(start: Tensor, a: str, b: str, limb: int) -> Tensor:
        """How far joint b moves, beside joint a that moves by `start`."""
        return start + ((at[b] - at[a]) * growth[:, limb]).nan_to_num(0)

    moved = {"chip": torch.zeros_like(at["chip"])}
    moved["cneck"] = moved["cnose"] = end(moved["chip"], *TRUNK, 0)
    for side in "rl":
        moved |= {side + name: moved[other] for name, other in _BESIDE.items()}
        for limb, (a, b) in enumerate(LIMBS, 1):
            moved[side + b] = end(moved[side + a], side + a, side + b, limb)
    placed = {name: at[name] + move for name, move in moved.items() if name in at}

    middle = torch.where(at["chip"].isnan(), at["cneck"], at["chip"])
    floor, reached = (torch.fmax(x["rankle"][:, 1], x["lankle"][:, 1]) for x in (at, placed))
    stands = floor > middle[:, 1]  # False if feet or trunk are unknown
    lift = torch.where(stands, floor - reached, 0)
    result = torch.stack([placed[name] for name in order], 1)
    result[..., 1] += lift[:, None]
    fixed = torch.stack([middle[:, 0], torch.where(stands, floor, middle[:, 1])], -1)[:, None]

    # The largest factor that leaves all points in the image, or in the driving figure's box.
    crown, old_crown = (2 * x["cnose"] - x["cneck"] for x in (placed, at))
    crown = crown + torch.stack([torch.zeros_like(lift), lift], -1)
    before = torch.stack([at[name] for name in order], 1)
    points = torch.cat([result, crown[:, None]], 1)
    low = torch.zeros_like(points)
    low[:, -1] = old_crown.nan_to_num(0).clamp(max=0)  # of the joints none is negative
    high = torch.cat([before, old_crown[:, None]], 1).nan_to_num(0).amax(1, keepdim=True)
    high = torch.maximum(high, high.new_tensor(size) - 1)
    room = torch.where(points > high, high - fixed, low - fixed) / (points - fixed)
    factor = torch.where((points > high) | (points < low), room, 1).nan_to_num(1).amin((1, 2))
    result = fixed + factor.clamp(0, 1)[:, None, None] * (result - fixed)
    unfixed = fixed.isnan().any(-1, keepdim=True)  # neither hips nor shoulders: as they are
    return torch.where(unfixed, before, result.clamp(min=0))


def _by_name(joints: Tensor, order: Sequence[str]) -> dict[str, Tensor]:
    """Joints (..., 2) by name, with neck and middle of the hips; those that are missing are NaN."""
    whole = torch.where(valid_joints(joints)[..., None], joints, torch.nan)
    names = tuple(dict.fromkeys((*order, *JOINTS_17, "cneck", "chip")))
    return dict(zip(names, convert_joints(whole, order, names).unbind(-2), strict=True))


# --- stick figures -------------------------------------------------------------------------------


def _parts_style() -> Skeleton:
    """The style "parts": right, left and middle of the body in channels 0, 1 and 2."""
    at = {name: i for i, name in enumerate(JOINTS_15)}
    right, left, middle = (255, None, None), (None, 255, None), (None, None, 255)
    sides: list[tuple[str, tuple[int | None, ...]]] = [("r", right), ("l", left)]
    trunk = tuple(at[name] for name in ("lhip", "lshoulder", "rshoulder", "rhip"))
    strokes = [Stroke("fill", trunk, middle)]
    chain = ("ankle", "knee", "hip", "shoulder", "elbow", "wrist")
    for side, colour in sides:
        for a, b in pairwise(chain):
            strokes.append(Stroke("line", (at[side + a], at[side + b]), colour))
    nose, eyes = at["cnose"], (at["reye"], at["leye"])
    neck = (at["rshoulder"], at["lshoulder"])
    strokes.append(Stroke("line", (neck, nose), (127, 127, None), "truncated"))
    for eye, (_, colour) in zip(eyes, sides, strict=True):
        strokes.append(Stroke("line", (nose, eye), colour, "truncated", also=eyes))
    return skeleton(15, 3, strokes, lambda size: 3 * size // 128)


def _image_style() -> Skeleton:
    """The style "image": the right side red, the middle green and the left side blue."""
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    right = [(2, 3), (3, 4), (2, 8), (8, 9), (9, 10)]
    middle = [(16, 14), (14, 0), (0, 15), (15, 17), (0, 1)]
    left = [(5, 6), (6, 7), (5, 11), (11, 12), (12, 13)]
    groups = ((right, red), (middle, green), (left, blue))
    strokes = [Stroke("fill", (1, 2, 8, 11, 5), green, "marked", partial=True)]
    for lines, colour in groups:
        strokes += [Stroke("line", ends, colour, "marked") for ends in lines]
    for lines, colour in groups:
        for point in sorted({i for ends in lines for i in ends}):
            strokes.append(Stroke("dot", (point,), colour, "marked"))
    four, three = (lambda size: 4 * size // 256), (lambda size: 3 * size // 256)
    return skeleton(18, 3, strokes, four, three, raster=PILLOW)


def _face_68() -> Skeleton:
    """Outlines of a face's 68 points; the background is 1, as for the published weights."""
    white, red, green, blue = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)
    magenta, cyan, yellow = (255, 0, 255), (0, 255, 255), (255, 255, 0)
    parts = [
        (range(17), white),  # jaw
        (range(17, 22), red),  # right brow, as seen from the person
        (range(22, 27), green),  # left brow
        ((27, 28, 29, 30, 33), blue),  # nose bridge
        (range(31, 36), blue),  # nose base
        ((*range(36, 42), 36), magenta),  # right eye
        ((*range(42, 48), 42), cyan),  # left eye
        ((*range(48, 60), 48), yellow),  # outer lips
        ((*range(60, 68), 60), yellow),  # inner lips
    ]
    strokes = [
        Stroke("line", ends, colour, "finite") for part, colour in parts for ends in pairwise(part)
    ]
    return skeleton(68, 3, strokes, lambda size: 2, background=1)


def _silhouette() -> Skeleton:
    """A body: trunk, head and limbs as one thick shape in one channel."""
    at, white = {name: i for i, name in enumerate(JOINTS_15)}, (255,)
    trunk = tuple(at[name] for name in ("lhip", "lshoulder", "rshoulder", "rhip"))
    neck = (at["rshoulder"], at["lshoulder"])
    strokes = [Stroke("fill", trunk, white), Stroke("line", neck, white)]
    strokes.append(Stroke("line", (neck, at["cnose"]), white))
    for side in "rl":
        for a, b in pairwise(("ankle", "knee", "hip", "shoulder", "elbow", "wrist")):
            strokes.append(Stroke("line", (at[side + a], at[side + b]), white))
    return skeleton(15, 1, strokes, lambda size: 14 * size // 128)


PARTS_STYLE = _parts_style()  # of JOINTS_15
IMAGE_STYLE = _image_style()  # of OPENPOSE_18
SILHOUETTE = _silhouette()  # of JOINTS_15
FACE_68 = _face_68()  # of the 68 points in iBUG order
STYLES = {"parts": (PARTS_STYLE, JOINTS_15), "image": (IMAGE_STYLE, OPENPOSE_18)}


def stickman(
    joints: Tensor, size: int, style: str = "parts", order: Sequence[str] = JOINTS_15
) -> Tensor:
    """Stick figures of people, (N, 3, S, S) uint8 on the device of `joints`.

    joints  (N, len(order), 2) pixels of the image; missing = negative or NaN, for "image" also
            (0, 0). A line with a missing end is left out.
    size    side S of the images
    style   "parts": channels right, left, centre; lines of 3 px at S = 128, as drawn by OpenCV.
            "image": red, green and blue drawn over one another; lines of 4 px and dots of radius 3
            at S = 256, as drawn by Pillow.
    order   names of the joints; converted to the style's order by name
    """
    if style not in STYLES:
        raise ValueError(f"stickman: style must be one of {', '.join(STYLES)}, got {style!r}")
    drawn, names = STYLES[style]
    if tuple(order) != names:
        joints = convert_joints(joints, order, names)
    return draw_skeleton(joints, drawn, size)


def silhouette(joints: Tensor, size: int, order: Sequence[str] = JOINTS_15) -> Tensor:
    """About where people are, (N, S, S) bool: trunk, and head and limbs of 14 px at S = 128.

    joints, size, order  as for `stickman`; a person far larger than the image's height looks thin
    """
    return draw_skeleton(convert_joints(joints, order, JOINTS_15), SILHOUETTE, size)[:, 0] > 0


# Limbs and diagonals of OPENPOSE_18 that span a person, places of joints from 0; Ma et al. 2017.
BODY = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
    (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (1, 16), (1, 17), (8, 11), (11, 5),
    (8, 2), (16, 17),
)  # fmt: skip


def body_mask(joints: Tensor, size: tuple[int, int], order: Sequence[str]) -> Tensor:
    """The person's mask as mask-SSIM uses it, (N, H, W) bool; all False without a known limb.

    joints  (N, len(order), 2) pixels, pixel centres whole numbers; missing: negative or NaN
    size    (H, W)
    A pixel belongs to it within 4 pixels of a limb of BODY. Gaps are closed by a square of 5x5:
    dilation, then erosion, without effect from beyond the border.
    """
    points = convert_joints(joints, order, OPENPOSE_18).double()
    known = valid_joints(points)
    h, w = size
    y, x = torch.meshgrid(
        torch.arange(h, device=points.device), torch.arange(w, device=points.device), indexing="ij"
    )
    pixels = torch.stack([x, y], -1).double().view(1, h * w, 2)
    inside = torch.zeros(len(points), h * w, dtype=torch.bool, device=points.device)
    for first, second in BODY:
        start, along = points[:, first, None], points[:, second, None] - points[:, first, None]
        length = along.square().sum(-1).clamp_min(1e-12)
        place = (((pixels - start) * along).sum(-1) / length).clamp(0, 1)
        near = (pixels - start - place[..., None] * along).square().sum(-1) <= 4**2
        inside |= near & (known[:, first] & known[:, second])[:, None]
    mask = inside.view(-1, 1, h, w).float()
    dilated = F.max_pool2d(mask, 5, 1, 2)
    return (-F.max_pool2d(-dilated, 5, 1, 2))[:, 0] > 0.5
