"""One head by a plain NumPy ray tracer, written apart from the renderer it checks."""

from __future__ import annotations

import math

import numpy as np

from nets.worlds.heads.shape import PARAMETERS


def parts_of(p: dict[str, float]) -> list[tuple]:
    """Centre, radii, albedo, roll, cut of a head at rest; the first nine are smooth skin."""
    w, h, d = 0.72 + 0.0432 * p["head_w"], 0.8 + 0.04 * p["head_h"], 0.85 + 0.0425 * p["head_d"]
    k = min(max(0.72 + 0.08 * p["skin"], 0.45), 0.95)
    a = min(max(0.25 + 0.12 * p["hair"], 0.03), 0.6)
    nw, nl = 0.075 + 0.01125 * p["nose_w"], 0.17 + 0.0255 * p["nose_len"]
    ny, zf = -0.14 + 0.03 * p["nose_y"], 0.74 * d / 0.85
    ex, ey = 0.27 + 0.0189 * p["eye_gap"], 0.14 + 0.03 * p["eye_y"]
    es = 0.095 + 0.0095 * p["eye_size"]
    ez = -0.105 + d * math.sqrt(max(0.05, 1 - (ex / w) ** 2 - ((ey - 0.12) / h) ** 2))
    mw, lt = 0.19 + 0.0228 * p["mouth_w"], 0.038 + 0.0076 * p["lip"]
    mz = 0.035 + 0.64 * math.sqrt(1 - 0.12**2)
    er, ck = 0.17 + 0.0204 * p["ear"], 0.27 + 0.0216 * p["cheek"]
    j, c = p["jaw_w"], p["chin"]
    by, bt = ey + 0.16 + 0.025 * p["brow_y"], 0.032 + 0.008 * p["brow_thick"]
    one = [
        ((0, 0.12, -0.05), (w, h, d), k),
        ((0, -0.40, 0.08), (0.54 + 0.0432 * j, 0.5, 0.64), k),
        ((0, -0.74 - 0.05 * c, 0.4), (0.22 + 0.022 * j, 0.17, 0.22), k),
        ((0, ny + 0.2, zf + 0.01), (0.73 * nw, 0.24, 0.1), k),
        ((0, ny, zf + 0.05), (1.05 * nw, 0.085, nl), k),
    ]
    sides = (-1, 1)
    one += [((s * 0.33, -0.17, 0.4), (ck, ck, ck), k) for s in sides]
    one += [((s * nw, ny - 0.015, zf + 0.02), (0.75 * nw, 0.06, 0.09), k) for s in sides]
    one += [((0, -1.1, -0.2), (0.4, 0.6, 0.4), 0.97 * k)]
    one += [((s * ex, ey, ez), (1.25 * es, 0.72 * es, 1.1 * es), 0.95) for s in sides]
    one += [((s * ex, ey, ez + 0.8 * es), (0.42 * es, 0.42 * es, 0.4 * es), 0.08) for s in sides]
    one += [((s * ex, by, ez + 0.02), (1.75 * es, bt, 0.09), 0.8 * a, -s * 0.12) for s in sides]
    one += [((0, -0.46 + 0.75 * lt, mz), (mw, lt, 0.085), 0.62 * k)]
    one += [((0, -0.46 - 0.75 * lt, mz), (0.85 * mw, 1.1 * lt, 0.09), 0.65 * k)]
    one += [((s * (w + 0.01), -0.02, -0.08), (0.07, er, 0.62 * er), 0.95 * k) for s in sides]
    cut = 0.34 - 0.06 * p["hairline"]
    return [*one, ((0, 0.14, -0.07), (1.06 * w, 1.06 * h, 1.05 * d), a, 0.0, cut)]


def ray_traced(identity: np.ndarray, a: float, e: float, phi: float, n: int) -> np.ndarray:
    """Grey values of one head in float64, one pixel a ray, with no shortcut."""
    ux = np.array([math.cos(a), 0, math.sin(a)])
    uy = np.array([-math.sin(e) * math.sin(a), math.cos(e), math.sin(e) * math.cos(a)])
    f = np.cross(ux, uy)
    place = ((np.arange(n) + 0.5) / n * 2 - 1) * 1.15
    origin = place[None, :, None] * ux + (-place - 0.06)[:, None, None] * uy
    b = 0.35
    light = np.array([math.sin(phi) * math.cos(b), math.sin(b), math.cos(phi) * math.cos(b)])
    light = light[0] * ux + light[1] * uy + light[2] * f
    best, grey = np.full((n, n), -np.inf), np.ones((n, n))
    skin, depth_of_skin, albedo_of_skin = np.zeros((n, n, 3)), np.full((n, n), -np.inf), 0.0
    parts = parts_of(dict(zip(PARAMETERS, identity, strict=True)))
    for number, (centre, radii, albedo, *rest) in enumerate(parts):
        roll = rest[0] if rest else 0.0
        cos, sin = math.cos(roll), math.sin(roll)
        q = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        m = np.diag(1 / np.array(radii)) @ q.T
        q0, q1 = (origin - np.array(centre)) @ m.T, m @ f
        aa, bb, cc = q1 @ q1, q0 @ q1, (q0 * q0).sum(-1) - 1
        disc = bb * bb - aa * cc
        seen = np.full((n, n), -np.inf)
        normals = np.zeros((n, n, 3))
        for sign in (1, -1) if len(rest) > 1 else (1,):
            tau = (-bb + sign * np.sqrt(np.maximum(disc, 0))) / aa
            hit = (disc > 0) & ~np.isfinite(seen)
            if len(rest) > 1:
                hit &= (origin + tau[..., None] * f) @ np.array([0, 0.8, -0.6]) >= rest[1]
            normal = ((q0 + tau[..., None] * q1) / np.array(radii)) @ q.T * sign
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            seen[hit], normals[hit] = tau[hit], normal[hit]
        if number < 9:
            weight = np.exp(14 * np.where(np.isfinite(seen), seen, -50))
            skin += weight[..., None] * normals
            depth_of_skin, albedo_of_skin = np.maximum(depth_of_skin, seen), albedo
            if number < 8:
                continue
            normals = skin / np.maximum(np.linalg.norm(skin, axis=-1, keepdims=True), 1e-30)
            seen, albedo = depth_of_skin, albedo_of_skin
        nearer = seen > best
        shade = albedo * (0.25 + 0.75 * np.maximum(0, normals @ light))
        grey[nearer], best[nearer] = shade[nearer], seen[nearer]
    return grey
