// The two ONNX files of an avatar, run by onnxruntime-web.

import { stickman } from "./faces.js";
import { imageFrom, planes, signed } from "./images.js";

const RUNTIME = "../node_modules/onnxruntime-web/dist/ort.";
const MOST_THREADS = 4;
// WebGPU convolves 6 channels, an image and its stick figure, to wrong values:
// github.com/microsoft/onnxruntime/issues/29651. So the identity, computed once, does without it.
const EXACT = "wasm";
// Options of avatars that need more than the page computes.
const UNKNOWN = ["mask_source_and_target", "use_source_background"];

// What computes: {ort, provider, threads, about}.
//   provider  "webgpu", "wasm", or null for WebGPU where there is one
//   threads   of wasm; null: up to 4. More than one needs a page that is cross-origin isolated
export async function openRuntime({ provider = null, threads = null } = {}) {
  provider ??= (await hasGpu()) ? "webgpu" : "wasm";
  const ort = await import(`${RUNTIME}${provider}.bundle.min.mjs`).catch(() => {
    throw new Error("onnxruntime-web is not there: run `npm ci` in web/");
  });
  const most = Math.min(navigator.hardwareConcurrency, MOST_THREADS);
  threads = crossOriginIsolated ? (threads ?? most) : 1;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const wasm = `wasm, ${threads} thread${threads > 1 ? "s" : ""}`;
  return { ort, provider, threads, about: provider === "webgpu" ? "WebGPU" : wasm };
}

// True if WebGPU has a graphics processor, not an emulation, which is slower than wasm.
async function hasGpu() {
  const adapter = await navigator.gpu?.requestAdapter();
  return Boolean(adapter && !adapter.info.isFallbackAdapter);
}

export class Avatar {
  // files  [{name, bytes}] of avatar_identity.onnx and avatar_frame.onnx, in any order
  static async open(runtime, files) {
    const graphs = {};
    for (const { name, bytes } of files) {
      const facts = factsOf(bytes, name);
      graphs[facts.guise_graph] = { name, bytes, facts };
    }
    const { avatar_identity: identity, avatar_frame: frame } = graphs;
    if (!identity || !frame) {
      throw new Error("an avatar is two files of export.py: avatar_identity.onnx and avatar_frame.onnx");
    }
    if (identity.facts.guise_weights !== frame.facts.guise_weights) {
      throw new Error(`${frame.name}: of other weights than ${identity.name}; export both again`);
    }
    const options = JSON.parse(frame.facts.guise_options);
    const needed = UNKNOWN.filter((name) => options[name]);
    if (needed.length || options.num_keypoints !== 68) {
      throw new Error(`${frame.name}: this page has no ${needed[0] ?? "avatar of other points than 68"}`);
    }
    const sessions = [];
    for (const [provider, { name, bytes }] of [[EXACT, identity], [runtime.provider, frame]]) {
      try {
        const settings = { executionProviders: [provider], logSeverityLevel: 3 };
        sessions.push(await runtime.ort.InferenceSession.create(bytes, settings));
      } catch (error) {
        throw new Error(`${name}: onnxruntime-web does not open it: ${firstLine(error)}`);
      }
    }
    return new Avatar(runtime.ort, options, ...sessions);
  }

  constructor(ort, options, identity, frame) {
    this.ort = ort;
    this.size = options.image_size;
    this.thickness = options.stickmen_thickness;
    if (this.thickness < 2) throw new Error("stickmen_thickness: must be 2 or more for this page");
    this.identity = identity;
    this.frame = frame;
    this.person = null;
  }

  get needsMask() {
    return this.identity.inputNames.includes("mask");
  }

  get hasMask() {
    return this.frame.outputNames.includes("mask");
  }

  // Takes a person on.
  //   image  the square around the face, of the avatar's size; mask likewise, 1 channel, or null
  //   pose   of the face in it
  async setSource(image, pose, mask) {
    const given = {
      image: planes(image, signed),
      stickman: Float32Array.from(stickman(pose, this.size, this.thickness), signed),
      mask: mask && planes(mask, (level) => Math.fround(level / 255)),
    };
    const inputs = {};
    for (const name of this.identity.inputNames) inputs[name] = this.#square(given[name]);
    this.person = await this.identity.run(inputs);
  }

  // The image of the person in a pose; cut out on white if `white`.
  async draw(pose, white = false) {
    const tensor = new this.ort.Tensor("float32", pose, [1, pose.length]);
    const { image, mask } = await this.frame.run({ ...this.person, pose: tensor });
    const values = image.data;
    if (white && mask) {
      const area = this.size * this.size;
      for (let i = 0; i < values.length; i++) {
        const opacity = mask.data[i % area];
        values[i] = Math.min(Math.max(values[i], -1), 1) * opacity + (1 - opacity);
      }
    }
    return imageFrom(values, this.size);
  }

  #square(data) {
    const channels = data.length / (this.size * this.size);
    return new this.ort.Tensor("float32", data, [1, channels, this.size, this.size]);
  }
}

// The metadata of an ONNX file that export.py wrote. onnxruntime-web does not hand them out.
export function factsOf(bytes, name) {
  const facts = {};
  try {
    for (const [field, value] of fieldsOf(bytes)) {
      if (field !== 14) continue; // ModelProto.metadata_props, of keys and values
      const entry = Object.fromEntries(fieldsOf(value));
      facts[textOf(entry[1])] = textOf(entry[2]);
    }
  } catch {
    throw new Error(`${name}: is not an ONNX file`);
  }
  if (!("guise_graph" in facts)) throw new Error(`${name}: is not a file that export.py wrote`);
  if (facts.guise_system !== "bilayer") {
    throw new Error(`${name}: a network of ${facts.guise_system}, not a head avatar`);
  }
  return facts;
}

const textOf = (bytes) => new TextDecoder().decode(bytes);

// The fields [number, bytes or number] of a protocol buffer's message.
function* fieldsOf(bytes) {
  let at = 0;
  function varint() {
    for (let value = 0, scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new Error("cut off");
  }
  while (at < bytes.length) {
    const key = varint();
    const kind = key % 8;
    let value;
    if (kind === 0) {
      value = varint();
    } else if (kind === 2 || kind === 1 || kind === 5) {
      const length = kind === 2 ? varint() : kind === 1 ? 8 : 4;
      if (at + length > bytes.length) throw new Error("cut off");
      value = bytes.subarray(at, at + length);
      at += length;
    } else {
      throw new Error("unknown kind");
    }
    yield [Math.floor(key / 8), value];
  }
}

export function firstLine(error) {
  return String(error?.message ?? error).split("\n")[0].slice(0, 200);
}
