"use strict";
// A program: a file of `onnx-attribution build`, what goes in and what comes out, and how it is run.

const LIBRARY = "./node_modules/onnxruntime-web/dist/";
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: globalThis.Float16Array, int64: BigInt64Array, uint64: BigUint64Array,
  int32: Int32Array, uint32: Uint32Array, int16: Int16Array, uint16: Uint16Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
};
const ROLES = /^(baseline\/.*|target|target\/weight|steps)$/;

/** What a file says of itself, of its metadata; null for bytes that are no ONNX model. */
function factsOf(bytes) {
  const facts = {}, text = (from, to) => new TextDecoder().decode(bytes.subarray(from, to));
  let at = 0, graph = false;
  const number = () => {
    let value = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      value += (byte & 127) * scale;
      scale *= 128;
    } while (byte >= 128);
    if (byte === undefined) throw new RangeError();
    return value;
  };
  try {
    while (at < bytes.length) {
      const key = number(), field = Math.floor(key / 8);
      if (key % 8 === 0) number();
      else if (key % 8 === 2) {
        const end = number() + at;
        if (end > bytes.length || !field) return null;
        if (field === 7) graph = true;
        if (field === 14) {
          const pair = {};
          while (at < end) {
            const place = number() >> 3, stop = number() + at;
            pair[place] = text(at, stop);
            at = stop;
          }
          facts[pair[1]] = pair[2] ?? "";
        }
        at = end;
      } else return null;
    }
  } catch { return null; }
  return graph ? facts : null;
}

const libraries = {};

async function library(provider) {
  const file = provider === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
  if (!libraries[file]) {
    try {
      libraries[file] = await import(LIBRARY + file);
    } catch {
      throw new Refused("onnxruntime-web is not beside this page.", "In the folder of this page: npm install");
    }
    libraries[file].env.wasm.numThreads = 1; // more need a page that is isolated (COOP and COEP)
    libraries[file].env.logLevel = "fatal";
  }
  return libraries[file];
}

/** Why WebGPU is not to be had, "" where it is. */
async function noAdapter() {
  if (!navigator.gpu) return "This browser has no WebGPU here.";
  return (await navigator.gpu.requestAdapter()) ? "" : "This browser finds no graphics card for WebGPU.";
}

class Program {
  constructor(name, bytes, facts, provider, ort, session) {
    Object.assign(this, { name, bytes, facts, provider, ort, session });
    this.inputs = session.inputMetadata;
    this.outputs = session.outputMetadata;
    const rows = this.outputs.find((one) => one.name === "target/value")?.shape[0];
    this.rows = typeof rows === "string" ? rows : ""; // the name of the axis of samples, "" where there is room for one
  }

  /** Opens a file. Throws Refused with words for what cannot be run here. */
  static async open(name, bytes, provider) {
    const facts = factsOf(bytes);
    if (!facts) throw new Refused(`${name} is no ONNX file, or it is cut off.`, "onnx-attribution build MODEL.onnx -o OUT.onnx writes one.");
    const ort = await library(provider);
    let session;
    try {
      session = await ort.InferenceSession.create(bytes, { executionProviders: [provider], logSeverityLevel: 4 });
    } catch (error) { throw new Refused(`onnxruntime-web does not take ${name}: ${plain(error)}`, cause(error)); }
    if (!session.outputNames.some((one) => one.startsWith("attribution/"))) {
      await session.release();
      throw new Refused(`${name} is a model that attributes nothing: it has no output attribution/….`, `onnx-attribution build ${name} -o OUT.onnx writes one that does.`);
    }
    return new Program(name, bytes, facts, provider, ort, session);
  }

  get own() { return this.inputs.filter((one) => !ROLES.test(one.name)); }
  input(name) { return this.inputs.find((one) => one.name === name); }
  get baselines() { return this.inputs.filter((one) => one.name.startsWith("baseline/")); }
  get layers() { return this.outputs.filter((one) => one.name.startsWith("attribution/")).map((one) => one.name.slice(12)); }

  /** Rows of the network that one sample takes; "" where the file does not say. */
  rowsOf(steps) { return this.facts["onnx_attribution.rows"] === "steps + 1" ? steps + 1 : this.facts["onnx_attribution.rows"] ?? ""; }

  /** Which axis of a value is that of samples, -1 for none. */
  axisOf(value) { return this.rows ? value.shape.indexOf(this.rows) : value.shape[0] === 1 ? 0 : -1; }

  /** One sample of an array, in the shape that the program takes. */
  sample(value, array, row) {
    const axis = this.axisOf(value), fixed = value.shape.filter((size, k) => k !== axis);
    let dims = [...array.dims], data = array.data;
    if (axis >= 0 && dims.length === value.shape.length - 1) dims.splice(axis, 0, 1);
    const flat = dims.length <= 1 && fixed.every((size) => typeof size === "number") && data.length === count(fixed);
    if (flat) dims = value.shape.map((size, k) => (k === axis ? 1 : size));
    const fits = dims.length === value.shape.length && dims.every((size, k) => k === axis || typeof value.shape[k] === "string" || size === value.shape[k]);
    if (!fits) throw new Refused(`${value.name} was given as [${array.dims}]; the program takes ${told(this, value)}.`);
    if (axis >= 0 && dims[axis] !== 1) {
      if (!(row >= 0 && row < dims[axis])) throw new Refused(`There is no sample ${row}: ${value.name} has ${dims[axis]}, from 0 on.`);
      const inner = count(dims.slice(axis + 1)), outer = count(dims.slice(0, axis)), many = dims[axis];
      const picked = new data.constructor(inner * outer);
      for (let k = 0; k < outer; k++) picked.set(data.subarray((k * many + row) * inner, (k * many + row + 1) * inner), k * inner);
      data = picked;
      dims[axis] = 1;
    }
    return this.tensor(value, data, dims);
  }

  tensor(value, data, dims) {
    const kind = ARRAYS[value.type];
    if (!kind) throw new Refused(`${value.name} takes elements of type ${value.type}, which this page cannot make.`);
    const whole = kind === BigInt64Array || kind === BigUint64Array;
    const typed = data instanceof kind ? data : kind.from(data, (one) => (whole ? BigInt(Math.round(Number(one))) : Number(one)));
    if (typed.some(Number.isNaN)) throw new Refused(`${value.name} holds what is no number (NaN).`);
    return new this.ort.Tensor(value.type, typed, dims);
  }

  /** One number for all elements of a baseline, whose open sizes are those of what it belongs to. */
  constant(value, number, feeds) {
    const own = feeds[value.name.slice(9)]?.dims;
    const dims = value.shape.map((size, k) => (typeof size === "number" ? size : value.shape[k] === "baselines" ? 1 : own?.[k] ?? 1));
    return this.tensor(value, new Array(count(dims)).fill(number), dims);
  }

  async run(feeds) {
    try {
      return await this.session.run(feeds, { logSeverityLevel: 4 }); // what is wrong is said on the page
    } catch (error) { throw new Refused(`The run failed: ${plain(error)}`, cause(error)); }
  }

  release() { return this.session.release(); }
}

function told(program, value) {
  const axis = program.axisOf(value);
  return `[${value.shape.map((size, k) => (k === axis ? "samples" : size)).join(", ")}] of ${value.type}`;
}

function plain(error) {
  const words = String(error?.message ?? error).replace(/^.*ERROR_MESSAGE: /s, "").replace(/^Non-zero status code returned while running /, "");
  return words.trim().replace(/\.?$/, ".").slice(0, 400);
}

/** What would work, for what onnxruntime-web is known to lack. */
function cause(error) {
  const words = String(error?.message ?? error);
  if (/LinearClassifier|LinearRegressor|SVM|TreeEnsemble|ai\.onnx\.ml/.test(words)) return "On the graphics card onnxruntime-web has no operators of ai.onnx.ml; on the processor it has.";
  if (/Could not find an implementation/.test(words)) return "If the model computes in float64, the processor can; onnx-attribution build --float32 writes a file that does not.";
  if (/No Op registered|is not a registered/.test(words)) return "The model has an operator that onnxruntime-web does not know; plain onnxruntime on a computer may.";
  if (/out of memory|bad_alloc|allocat|memory access/i.test(words)) return "It takes more memory than a page has: fewer steps, or a file built with --loop.";
  if (/indices|out of bounds|out of data bounds|GatherElements|Gather|ScatterElements/.test(words)) return "Perhaps the target's index is not there: take a smaller one, or a list of as many parts as the target has axes.";
  return "";
}
