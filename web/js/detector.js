// Face points and masks by MediaPipe's networks, which lie in its npm packages.
// They compute with WebGL. The same networks serve infer.py through the extra `extract`.

import { meshTo68 } from "./faces.js";
import { imageOf } from "./images.js";

const PACKAGES = new URL("../node_modules/@mediapipe/", import.meta.url).href;
const LARGEST = 1280; // px; photos are searched at this size at most
const BORDER = 0.5; // around a photo whose face fills it, of its longer side
const solutions = {};

// The 68 points of the face in a frame of a video, in its pixels; null if there is none.
export async function pointsOfFrame(video) {
  const mesh = await solution("face_mesh", "FaceMesh", { maxNumFaces: 1 });
  return pointsIn(mesh, video, video.videoWidth, video.videoHeight);
}

// The 68 points of the face in a photo, in its pixels; null if there is none.
export async function pointsOfPhoto(bitmap) {
  const mesh = await solution("face_mesh", "FaceMesh", { maxNumFaces: 1 });
  const { width, height } = bitmap;
  for (const border of [0, BORDER * Math.max(width, height)]) {
    const [wide, high] = [width + 2 * border, height + 2 * border];
    const scale = Math.min(1, LARGEST / Math.max(wide, high));
    const canvas = canvasOf(Math.round(wide * scale), Math.round(high * scale));
    const [left, top] = [border * scale, border * scale];
    canvas.getContext("2d").drawImage(bitmap, left, top, width * scale, height * scale);
    mesh.reset(); // no tracking from another image
    const points = await pointsIn(mesh, canvas, wide, high);
    mesh.reset();
    if (points) return points.map((value) => value - border);
  }
  return null;
}

// The mask of the person in the square around a face: an image of 1 channel, of the same size.
export async function maskOf(canvas) {
  const settings = { modelSelection: 0 };
  const segmentation = await solution("selfie_segmentation", "SelfieSegmentation", settings);
  const { segmentationMask } = await send(segmentation, canvas);
  const drawn = canvasOf(canvas.width, canvas.height);
  const context = drawn.getContext("2d");
  context.drawImage(segmentationMask, 0, 0, drawn.width, drawn.height);
  return imageOf(context.getImageData(0, 0, drawn.width, drawn.height), 3);
}

async function pointsIn(mesh, image, width, height) {
  const { multiFaceLandmarks } = await send(mesh, image);
  return multiFaceLandmarks?.length ? meshTo68(multiFaceLandmarks[0], width, height) : null;
}

async function send(network, image) {
  let answer = null;
  network.onResults((results) => {
    answer = results;
  });
  await network.send({ image });
  return answer ?? {};
}

// One of MediaPipe's networks, opened when it is first needed. Its script defines a global class.
async function solution(name, type, settings) {
  solutions[name] ??= (async () => {
    const folder = `${PACKAGES}${name}/`;
    await new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${folder}${name}.js`;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`@mediapipe/${name} is not there: run \`npm ci\` in web/`));
      document.head.append(script);
    });
    const network = new window[type]({ locateFile: (file) => folder + file });
    network.setOptions(settings);
    await network.initialize();
    return network;
  })();
  return solutions[name];
}

function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}
