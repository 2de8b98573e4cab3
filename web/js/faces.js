// Faces as 68 points: the square around a face, poses, stick figures.
// The arithmetic is that of nets/data/heads/faces.py, nets/skeletons.py and nets/ops/strokes.py;
// tests/web/test_web_ports.py compares them. Points are a Float32Array of 136: x and y in turn.

import tables from "../tables.json" with { type: "json" };

const COUNT = 68;
const ONE = 65536; // a pixel in the fixed-point positions of a stick figure
const HALF = ONE / 2;
const FAR = 16383; // px; a point further from the first pixel is missing

// The points of one face from a list of 68 pairs or of 136 numbers. Throws what is wrong.
export function pointsFrom(values, name) {
  const flat = Array.isArray(values) ? values.flat() : [];
  if (flat.length !== 2 * COUNT || !flat.every(Number.isFinite)) {
    throw new Error(`${name}: must hold ${COUNT} points, x and y each`);
  }
  return Float32Array.from(flat);
}

// The points of several faces from the JSON that infer.py takes as --driving_keypoints.
export function recordingFrom(values, name) {
  if (!Array.isArray(values) || values.length === 0) {
    throw new Error(`${name}: must be a list of frames with ${COUNT} points each`);
  }
  return values.map((frame, i) => pointsFrom(frame, `${name}, frame ${i}`));
}

// iBUG's 68 points of a mesh of MediaPipe with 468 or 478 landmarks, in pixels of the image.
export function meshTo68(landmarks, width, height) {
  const points = new Float32Array(2 * COUNT);
  tables.mesh_68.forEach((vertex, i) => {
    points[2 * i] = landmarks[vertex].x * width;
    points[2 * i + 1] = landmarks[vertex].y * height;
  });
  return points;
}

// The square to cut out around a face: {cx, cy, half}, whole pixels.
export function faceCropBox(points) {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < points.length; i += 2) {
    left = Math.min(left, points[i]);
    right = Math.max(right, points[i]);
    top = Math.min(top, points[i + 1]);
    bottom = Math.max(bottom, points[i + 1]);
  }
  const longer = Math.max(right - left, bottom - top);
  if (!(longer >= 1 && longer < Infinity)) {
    throw new Error("the points of a face must be finite and span a pixel or more");
  }
  const half = Math.trunc(longer);
  const cx = roundHalfEven((left + right) / 2);
  const cy = roundHalfEven((top + bottom) / 2) - Math.floor(half / 6);
  return { cx, cy, half };
}

// The pose that the networks take: 136 numbers, in [-1, 1] of the square. In float32, step by step.
export function normalisedPose(points, box) {
  const { fround } = Math;
  const scale = fround(1 / (2 * box.half));
  const corner = [box.cx - box.half, box.cy - box.half];
  return points.map((value, i) => {
    const inside = fround(fround(value - corner[i % 2]) * scale);
    return fround(fround(inside * 2) - 1);
  });
}

// The points of a pose in pixels of a square of side `size`.
export function posePoints(pose, size) {
  return pose.map((value) => Math.fround(Math.fround(Math.fround(value + 1) / 2) * size));
}

// The stick figure of a pose: Uint8Array of 3 x size x size, channel by channel.
export function stickman(pose, size, thickness) {
  const image = new Uint8Array(3 * size * size).fill(tables.stickman_background);
  const points = posePoints(pose, size);
  const at = (i) => [points[2 * i], points[2 * i + 1]];
  for (const { ends, colour } of tables.strokes) {
    const [p, q] = ends.map(at);
    if (![...p, ...q].every((value) => Math.abs(value) <= FAR)) continue;
    for (const [row, low, high] of line(p.map(Math.trunc), q.map(Math.trunc), thickness, size)) {
      const first = Math.max(low, 0);
      const last = Math.min(high, size - 1);
      for (let channel = 0; first <= last && channel < 3; channel++) {
        const start = (channel * size + row) * size;
        image.fill(colour[channel], start + first, start + last + 1);
      }
    }
  }
  return image;
}

// The runs [row, first, last] of a line as OpenCV draws it, with round ends; thickness of 2 or more.
function* line(a, b, thickness, rows) {
  const corners = cornersOf(a, b, thickness);
  const square = Math.floor((thickness + 1) / 2) ** 2;
  for (let row = 0; row < rows; row++) {
    let [low, high] = [Infinity, -Infinity];
    for (let i = 0; i < 4; i++) {
      const [p, q] = [corners[(i + 3) % 4], corners[i]];
      for (const run of [stepped(p, q, row), cut(...sorted(p, q, 1), row)]) {
        if (run) [low, high] = [Math.min(low, run[0]), Math.max(high, run[1])];
      }
    }
    if (low <= high) yield [row, low, high];
    for (const [x, y] of [a, b]) {
      const rest = square - (row - y) ** 2;
      const reach = Math.floor(Math.sqrt(rest));
      if (rest >= 0) yield [row, x - reach, x + reach];
    }
  }
}

// The corners of a thick line, fixed-point.
function cornersOf(a, b, thickness) {
  const [dx, dy] = [a[0] - b[0], b[1] - a[1]];
  const scale = ((thickness + (thickness % 2)) * HALF) / Math.sqrt(Math.max(dx * dx + dy * dy, 1));
  const [nx, ny] = [roundHalfEven(dy * scale), roundHalfEven(dx * scale)];
  const moved = ([x, y], sign) => [x * ONE + sign * nx, y * ONE + sign * ny];
  return [moved(a, 1), moved(a, -1), moved(b, -1), moved(b, 1)];
}

// The run where OpenCV's filling crosses an edge, p above q; or null.
function cut([x0, y0], [x1, y1], row) {
  const [top, bottom] = [pixel(y0 + HALF), pixel(y1 + HALF)];
  if (row < top || row >= bottom) return null;
  const high = Math.max(bottom - top, 1);
  const x = pixel(x0 + (row - top) * Math.trunc((2 * (x1 - x0) + high) / (2 * high)) + HALF);
  return [x, x];
}

// The run of OpenCV's thin line between fixed-point positions: whole steps on its longer axis.
function stepped(p, q, row) {
  const steep = Math.abs(q[0] - p[0]) <= Math.abs(q[1] - p[1]);
  const [start, end] = sorted(p, q, steep ? 1 : 0);
  let run = steep ? steepRun(start, end, row) : flatRun(start, end, row);
  if (row === pixel(end[1] + HALF)) { // the far end is drawn on its own
    const x = pixel(end[0] + HALF);
    run = run ? [Math.min(run[0], x), Math.max(run[1], x)] : [x, x];
  }
  return run;
}

function steepRun([x0, y0], [x1, y1], row) {
  const k = row - pixel(y0 + HALF);
  if (k < 0 || k > pixel(y1 - y0)) return null;
  const x = pixel(x0 + HALF + k * Math.trunc(((x1 - x0) * ONE) / odd(y1 - y0)));
  return [x, x];
}

function flatRun([x0, y0], [x1, y1], row) {
  const step = Math.trunc(((y1 - y0) * ONE) / odd(x1 - x0));
  const size = Math.max(Math.abs(step), 1);
  // Column k lies in row (y0 + HALF + k step) >> 16: solved for the columns of a row.
  const below = row * ONE - y0 - HALF;
  let [first, last] = [0, pixel(x1 - x0)];
  if (step > 0) {
    first = Math.max(-Math.floor(-below / size), 0);
    last = Math.min(last, -Math.floor((-below - ONE) / size) - 1);
  } else if (step < 0) {
    first = Math.max(Math.floor((-below - ONE) / size) + 1, 0);
    last = Math.min(last, Math.floor(-below / size));
  } else if (below > 0 || below <= -ONE) {
    return null;
  }
  const x = pixel(x0 + HALF);
  return first <= last ? [x + first, x + last] : null;
}

function sorted(p, q, axis) {
  return q[axis] < p[axis] ? [q, p] : [p, q];
}

// The pixel of a fixed-point position. Divisions by powers of two are exact in a double.
function pixel(position) {
  return Math.floor(position / ONE);
}

function odd(value) {
  return value % 2 === 0 ? value + 1 : value;
}

function roundHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
