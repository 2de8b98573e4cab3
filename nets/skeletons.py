"""Bodies and faces as points: joint orders and how to get from one to another, body-part boxes.

Joints are (x, y) in pixels of the square picture that a network sees; a joint is missing where a
coordinate is negative or NaN, and only there: beyond the right or lower border is a place like any
other. "r" and "l" are the person's own sides.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def _names(*lines: str) -> tuple[str, ...]:
    return tuple(" ".join(lines).split())


JOINTS_15 = _names(
    "rankle rknee rhip rshoulder relbow rwrist reye",
    "lankle lknee lhip lshoulder lelbow lwrist leye cnose",
)
# Also the column order of the key-point files that come with Market-1501 and DeepFashion.
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
    """Which joints are there: (..., J) bool from (..., J, 2); both coordinates >= 0, NaN is not."""
    return (joints >= 0).all(-1)


def convert_joints(joints: Tensor, source: Sequence[str], target: Sequence[str]) -> Tensor:
    """The joints in another order, matched by name.

    joints   (..., len(source), 2) floating point
    source   names along the second last axis; those that `target` lacks are dropped
    target   names wanted
    returns  (..., len(target), 2). A name that `source` lacks is NaN. A neck or middle of the hips
             that is missing is the midpoint of the two shoulders or hips where both are valid.
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
        found = joints[..., place[name], :] if name in place else missing
        ends = [place.get(end) for end in _MIDPOINTS.get(name, ())]
        if not ends or None in ends:
            return found
        pair = joints[..., ends, :]
        usable = valid_joints(pair).all(-1) & ~valid_joints(found)
        return torch.where(usable[..., None], pair.mean(-2), found)

    if not target:
        return joints[..., :0, :]
    return torch.stack([find(name) for name in target], -2)


# --- body parts ---------------------------------------------------------------------------------

PARTS = (  # in the order in which a network sees them; lower legs have none
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
    """Four corners of each of the eight body parts in the picture, NaN where a part is missing.

    joints   (N, 15, 2) pixels, in the order of JOINTS_15
    size     side of the picture, pixels
    returns  (N, 8, 4, 2) float64: the corners that a crop shows top left, bottom left, bottom
             right and top right, parts in the order of PARTS

    The trunk's corners are its joints. A limb lies along the middle of its box, which is half as
    wide as long. The head's box is a square from the neck to twice the way to the nose; without a
    nose it stands on the shoulders. A thigh without a knee reaches straight down to the border.
    Esser, Sutter, Ommer 2018, section 3.4. A box of less than one square pixel counts as missing:
    its homography would show unrelated pixels.
    """
    if joints.ndim != 3 or joints.shape[1:] != (15, 2):
        raise ValueError(f"part_corners: joints must be (N, 15, 2), got {list(joints.shape)}")
    joints = joints.double()
    joints = torch.where(valid_joints(joints)[..., None], joints, torch.nan)

    def at(name: str) -> Tensor:  # (N, 2); NaN carries "missing" through the arithmetic
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
    """Where the pixels of each body-part crop lie in the picture, for `ops.perspective_crops`.

    joints      (N, 15, 2) pixels of the picture, in the order of JOINTS_15
    size        side of the picture, pixels
    box_factor  a crop's side is s = size // 2**box_factor
    returns     (N, 8, 3, 3) float32, computed in float64: maps a pixel (x, y, 1) of the crop to a
                pixel of the picture, so that (0, 0), (0, s), (s, s), (s, 0) fall on the corners of
                `part_corners`. NaN where the part is missing. No gradients.
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
    whole = matrix.isfinite().all(-1).all(-1)[..., None, None]  # three corners in line: no map
    return torch.where(whole, matrix, torch.nan).float()


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
