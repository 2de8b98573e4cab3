// Images: read, cut out and resized as Pillow does, turned into tensors and back.
// An image is {width, height, channels, data}, data a Uint8Array of pixels, their channels in turn.

const BITS = 22; // of the fractions of Pillow's weights

// The image of a file or of a URL's answer, without its colour profile; 3 channels.
export async function readImage(blob, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
  } catch {
    throw new Error(`${name}: is not an image that this browser reads`);
  }
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return imageOf(context.getImageData(0, 0, canvas.width, canvas.height));
}

// The first three channels of a canvas's pixels; or one of the four.
export function imageOf(pixels, channel = null) {
  const { width, height, data } = pixels;
  const channels = channel === null ? 3 : 1;
  const out = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < channels; c++) out[i * channels + c] = data[4 * i + c + (channel ?? 0)];
  }
  return { width, height, channels, data: out };
}

// One channel of an image, as an image.
export function channelOf(image, channel) {
  const { width, height, channels } = image;
  const data = Uint8Array.from({ length: width * height }, (_, i) => image.data[i * channels + channel]);
  return { width, height, channels: 1, data };
}

// The pixels of an image for a canvas.
export function pixelsOf({ width, height, channels, data }) {
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = data[i * channels + (channels === 3 ? c : 0)];
    pixels.data[4 * i + 3] = 255;
  }
  return pixels;
}

// The box {cx, cy, half} of an image, resized to a square of side `size`; black outside.
export function cropSquare(image, { cx, cy, half }, size) {
  const { channels } = image;
  const side = 2 * half;
  if (side >= 16384) throw new Error("the face is larger than 8192 pixels; use a smaller image");
  const data = new Uint8Array(side * side * channels);
  const [left, top] = [cx - half, cy - half];
  const first = Math.max(0, -left);
  const last = Math.min(side, image.width - left);
  for (let y = Math.max(0, -top); first < last && y < Math.min(side, image.height - top); y++) {
    const start = ((y + top) * image.width + left + first) * channels;
    const row = image.data.subarray(start, start + (last - first) * channels);
    data.set(row, (y * side + first) * channels);
  }
  return resizeSquare({ width: side, height: side, channels, data }, size);
}

// A square image resized by Pillow's bicubic filter, columns first, in its integers.
function resizeSquare(image, size) {
  const { width: side, channels } = image;
  if (side === size) return image;
  const weights = weightsOf(side, size);
  const wide = resampled(image.data, weights, channels, side, [side * channels, channels],
    [size * channels, channels], size * side * channels);
  const data = resampled(wide, weights, channels, size, [channels, size * channels],
    [channels, size * channels], size * size * channels);
  return { width: size, height: size, channels, data };
}

// Lines of an image, each resampled along itself. Strides are [from line to line, along a line].
function resampled(from, weights, channels, lines, fromStride, toStride, length) {
  const to = new Uint8Array(length);
  for (let line = 0; line < lines; line++) {
    weights.forEach(({ first, values }, i) => {
      for (let c = 0; c < channels; c++) {
        const start = line * fromStride[0] + first * fromStride[1] + c;
        let sum = 1 << (BITS - 1);
        for (let k = 0; k < values.length; k++) sum += from[start + k * fromStride[1]] * values[k];
        to[line * toStride[0] + i * toStride[1] + c] = Math.min(Math.max(sum >> BITS, 0), 255);
      }
    });
  }
  return to;
}

// For each of `size` pixels the first of `side` pixels that it is made of, and their weights.
function weightsOf(side, size) {
  const scale = side / size;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  return Array.from({ length: size }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(side, Math.trunc(centre + support + 0.5));
    const values = [];
    for (let x = first; x < last; x++) values.push(bicubic((x - centre + 0.5) * (1 / stretch)));
    const share = 1 / values.reduce((a, b) => a + b, 0);
    const whole = (value) => Math.trunc(value * share * 2 ** BITS + (value < 0 ? -0.5 : 0.5));
    return { first, values: values.map(whole) };
  });
}

function bicubic(distance) {
  const x = Math.abs(distance);
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// The tensor data (channels, H, W) of an image, each level changed by a function.
export function planes({ width, height, channels, data }, change) {
  const area = width * height;
  const out = new Float32Array(channels * area);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < channels; c++) out[c * area + i] = change(data[i * channels + c]);
  }
  return out;
}

// x / 127.5 - 1 in float32, as the networks take images.
export function signed(level) {
  return Math.fround(Math.fround(level / 127.5) - 1);
}

// The image of a network's output, (3, S, S) in [-1, 1].
export function imageFrom(values, size) {
  const area = size * size;
  const data = new Uint8ClampedArray(3 * area); // rounds halves to even and clips, NaN becomes 0
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) data[3 * i + c] = Math.fround(Math.fround(values[c * area + i] + 1) * 127.5);
  }
  return { width: size, height: size, channels: 3, data: new Uint8Array(data.buffer) };
}
