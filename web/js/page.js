// The page: source, driving face, result.
// ?threads=1 and ?provider=wasm choose what computes; see openRuntime.

import { Avatar, firstLine, openRuntime } from "./avatar.js";
import { maskOf, pointsOfFrame, pointsOfPhoto } from "./detector.js";
import { faceCropBox, normalisedPose, pointsFrom, posePoints, recordingFrom } from "./faces.js";
import { channelOf, cropSquare, pixelsOf, readImage } from "./images.js";

const FPS = 25; // of recorded points
const COUNTED = 20; // frames of which the speed is the mean
const NOTHING = "\u00a0"; // keeps the height of a line
const SEARCHING = "looking for a face"; // the first search opens the detector, which takes seconds
const FILES = ["avatar_identity.onnx", "avatar_frame.onnx"];
const at = (id) => document.getElementById(id);
const video = at("video");
const asked = new URLSearchParams(location.search);

let runtime;
let avatar = null;
let run = 0; // number of the driving run; an older one ends when it sees a newer number
let source = null; // {image, points, mask}: a whole image, for the next avatar too
let busy = Promise.resolve(); // networks work one at a time

// --- one line for what went wrong -------------------------------------------------------------

function say(error) {
  at("error").hidden = !error;
  at("error").textContent = error ? firstLine(error) : "";
  if (error) console.warn(error);
}

function queued(work) {
  busy = busy.then(work).catch(say);
}

// A function for a button or a file, whose error is shown on the page.
function task(work) {
  return (...given) => queued(async () => {
    say(null);
    await work(...given);
  });
}

function onFile(id, work) {
  at(id).addEventListener("change", () => {
    const files = [...at(id).files];
    at(id).value = ""; // the same file may be chosen again
    if (files.length) work(files);
  });
}

async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}, is not on the server`);
  return answer;
}

// --- the avatar -------------------------------------------------------------------------------

async function openAvatar(files) {
  const opened = await Avatar.open(runtime, files);
  at("cut").hidden = !opened.hasMask;
  at("about").textContent = `${opened.size} px; ${runtime.about}`;
  if (source) await embed(opened, source);
  avatar = opened;
  if (source) return;
  await demoPerson();
  await demoMotion();
}

async function servedAvatar() {
  const files = await Promise.all(FILES.map(async (name) => {
    const answer = await fetch(`avatar/${name}`);
    return answer.ok && { name, bytes: new Uint8Array(await answer.arrayBuffer()) };
  }));
  if (!files.every(Boolean)) {
    at("about").textContent = runtime.about;
    throw new Error("no avatar in web/avatar: python export.py --checkpoint RUN -o web/avatar");
  }
  await openAvatar(files);
}

const chosenAvatar = task(async (files) => {
  await openAvatar(await Promise.all(files.map(async (file) => (
    { name: file.name, bytes: new Uint8Array(await file.arrayBuffer()) }
  ))));
});

// --- the source -------------------------------------------------------------------------------

async function demoPerson() {
  const [image, mask] = await Promise.all(["source.png", "source_mask.png"].map(async (name) => (
    readImage(await (await fetched(`demo/${name}`)).blob(), name)
  )));
  const points = pointsFrom(await (await fetched("demo/source.json")).json(), "demo/source.json");
  await setSource({ image, points, mask: channelOf(mask, 0) });
}

const photo = task(async ([file]) => {
  const image = await readImage(file, file.name);
  at("speed").textContent = SEARCHING;
  const points = await pointsOfPhoto(await createImageBitmap(pixelsOf(image)));
  at("speed").textContent = NOTHING;
  if (!points) throw new Error(`${file.name}: no face found`);
  await setSource({ image, points, mask: null });
});

async function setSource(next) {
  if (!avatar) throw new Error("choose an avatar first: its two .onnx files");
  await embed(avatar, next);
  source = next;
}

async function embed(to, { image, points, mask }) {
  const box = faceCropBox(points);
  const pose = normalisedPose(points, box);
  const square = cropSquare(image, box, to.size);
  const canvas = at("source");
  canvas.width = canvas.height = to.size;
  canvas.getContext("2d").putImageData(pixelsOf(square), 0, 0);
  let cut = null;
  if (to.needsMask) cut = mask ? cropSquare(mask, box, to.size) : await maskOf(canvas);
  await to.setSource(square, pose, cut);
  drawPoints(canvas, posePoints(pose, to.size), to.size / 128);
}

// --- the driving face -------------------------------------------------------------------------

function stop() {
  run += 1;
  at("speed").textContent = NOTHING;
  video.pause();
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  if (video.src) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
}

// Starts a run. `next` draws a driving frame and returns its points; null without a face, undefined
// if there is no new frame yet.
function drive(next) {
  if (!avatar?.person) throw new Error("a source is needed first");
  const number = ++run;
  const ends = []; // moments at which frames were done
  const spent = []; // milliseconds of the avatar alone
  const frame = async () => {
    if (number !== run) return;
    const points = await next();
    requestAnimationFrame(() => queued(frame));
    if (points === undefined || number !== run) return;
    if (points) {
      const start = performance.now();
      const box = faceCropBox(points);
      const image = await avatar.draw(normalisedPose(points, box), at("white").checked);
      if (number !== run) return;
      show(image);
      ends.push(performance.now());
      spent.push(performance.now() - start);
      if (ends.length > COUNTED + 1) ends.shift();
      if (spent.length > COUNTED) spent.shift();
    }
    const seconds = (ends.at(-1) - ends[0]) / 1000;
    const rate = ends.length > 1 ? (ends.length - 1) / seconds : 0;
    const mean = spent.reduce((a, b) => a + b, 0) / spent.length;
    const line = `${rate.toFixed(1)} frames/s; the avatar takes ${mean.toFixed(0)} ms`;
    at("speed").textContent = points ? line : "no face found";
  };
  queued(frame);
}

function show(image) {
  const canvas = at("result");
  canvas.width = canvas.height = image.width;
  canvas.getContext("2d").putImageData(pixelsOf(image), 0, 0);
}

function driveByPoints(frames) {
  stop();
  const canvas = at("driving");
  const flat = frames.flatMap((points) => [...points]);
  const [xs, ys] = [0, 1].map((axis) => flat.filter((_, i) => i % 2 === axis));
  const range = (values) => values.reduce(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [[left, right], [top, bottom]] = [range(xs), range(ys)];
  const side = 1.2 * Math.max(right - left, bottom - top);
  const middle = [(left + right) / 2, (top + bottom) / 2];
  canvas.width = canvas.height = 256;
  const start = performance.now();
  drive(() => {
    const points = frames[Math.floor(((performance.now() - start) / 1000) * FPS) % frames.length];
    canvas.getContext("2d").clearRect(0, 0, 256, 256);
    drawPoints(canvas, points.map((value, i) => ((value - middle[i % 2]) / side + 0.5) * 256), 2);
    return points;
  });
}

async function driveByVideo(name) {
  await video.play().catch(() => {
    throw new Error(`${name}: is not a video that this browser plays`);
  });
  at("speed").textContent = SEARCHING;
  let shown = -1;
  drive(async () => {
    if (video.currentTime === shown) return undefined;
    shown = video.currentTime;
    const canvas = at("driving");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const points = await pointsOfFrame(video);
    if (points) drawPoints(canvas, points, Math.max(video.videoWidth, video.videoHeight) / 256);
    return points;
  });
}

async function demoMotion() {
  const values = await (await fetched("demo/driving.json")).json();
  driveByPoints(recordingFrom(values, "demo/driving.json"));
}

const clip = task(async ([file]) => {
  if (file.name.endsWith(".json")) {
    let values;
    try {
      values = JSON.parse(await file.text());
    } catch {
      throw new Error(`${file.name}: is not JSON`);
    }
    driveByPoints(recordingFrom(values, file.name));
    return;
  }
  stop();
  video.src = URL.createObjectURL(file);
  await driveByVideo(file.name);
});

const camera = task(async () => {
  stop();
  if (!navigator.mediaDevices) throw new Error("camera: only on 127.0.0.1, localhost or https");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    throw new Error(`camera: ${firstLine(error)}`);
  }
  await driveByVideo("camera");
});

function drawPoints(canvas, points, radius) {
  const context = canvas.getContext("2d");
  context.fillStyle = "#3d6";
  for (let i = 0; i < points.length; i += 2) {
    context.beginPath();
    context.arc(points[i], points[i + 1], radius, 0, 2 * Math.PI);
    context.fill();
  }
}

// --- start ------------------------------------------------------------------------------------

onFile("avatar", chosenAvatar);
onFile("photo", photo);
onFile("clip", clip);
at("demo-person").addEventListener("click", task(demoPerson));
at("demo-motion").addEventListener("click", task(demoMotion));
at("camera").addEventListener("click", camera);
at("stop").addEventListener("click", stop);
task(async () => {
  const threads = Number(asked.get("threads")) || null;
  runtime = await openRuntime({ provider: asked.get("provider"), threads });
  await servedAvatar();
})();
