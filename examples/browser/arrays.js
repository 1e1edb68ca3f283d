"use strict";
// Arrays of files: .npy, .npz and JSON. An array is { dims, data } with data a typed array, or of bigints for int64.

const KINDS = {
  f4: Float32Array, f8: Float64Array, i1: Int8Array, i2: Int16Array, i4: Int32Array, i8: BigInt64Array,
  u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, u8: BigUint64Array, b1: Uint8Array,
};

class Refused extends Error {
  constructor(words, hint = "") { super(words); this.hint = hint; }
}

function count(dims) { return dims.reduce((product, size) => product * size, 1); }

/** The array of a .npy file. */
function npyArray(bytes, name) {
  if (bytes.length < 10 || String.fromCharCode(...bytes.subarray(1, 6)) !== "NUMPY") {
    throw new Refused(`${name} is no .npy array.`, "In Python, numpy.save or numpy.savez writes one.");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const long = bytes[6] > 1, start = (long ? 12 : 10) + (long ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.subarray(long ? 12 : 10, start));
  const kind = /'descr':\s*'([<>|=])(\w+)'/.exec(header), shape = /'shape':\s*\(([^)]*)\)/.exec(header);
  const make = kind && (kind[2] === "f2" ? Uint16Array : KINDS[kind[2]]);
  if (!make || !shape || kind[1] === ">") {
    const told = /'descr':\s*('[^']*'|\[)/.exec(header);
    throw new Refused(`${name} holds ${told?.[1] === "[" ? "records" : `elements of type ${told ? told[1] : "?"}`}.`, "Numbers can be read: astype(numpy.float32).");
  }
  const dims = shape[1].split(",").map((one) => one.trim()).filter(Boolean).map(Number), size = count(dims);
  if (bytes.length - start < size * make.BYTES_PER_ELEMENT) throw new Refused(`${name} is cut off.`);
  const end = start + size * make.BYTES_PER_ELEMENT;
  let data = new make(bytes.slice(start, end).buffer);
  if (kind[2] === "f2") data = Float32Array.from(data, halfValue);
  if (/'fortran_order':\s*True/.test(header)) data = turned(data, dims);
  return { dims, data };
}

function halfValue(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, part = bits & 1023;
  if (exponent === 31) return part ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + part / 1024) : 2 ** -24 * part);
}

function turned(data, dims) {
  const made = new data.constructor(data.length), place = dims.map(() => 0);
  for (let k = 0; k < data.length; k++) {
    let at = 0;
    for (let axis = dims.length - 1; axis >= 0; axis--) at = at * dims[axis] + place[axis];
    made[k] = data[at];
    for (let axis = dims.length - 1; axis >= 0 && ++place[axis] === dims[axis]; axis--) place[axis] = 0;
  }
  return made;
}

/** The arrays of a .npz file by name. */
async function npzArrays(bytes, file) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), found = {};
  let at = bytes.length - 22;
  while (at >= 0 && view.getUint32(at, true) !== 0x06054b50) at--;
  if (at < 0) throw new Refused(`${file} is no .npz file.`, "In Python, numpy.savez writes one.");
  const entries = view.getUint16(at + 10, true);
  let next = view.getUint32(at + 16, true);
  for (let k = 0; k < entries; k++) {
    const method = view.getUint16(next + 10, true), length = view.getUint32(next + 20, true);
    const [own, extra, said] = [28, 30, 32].map((one) => view.getUint16(next + one, true));
    const name = new TextDecoder().decode(bytes.subarray(next + 46, next + 46 + own)).replace(/\.npy$/, "");
    const local = view.getUint32(next + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    let body = bytes.subarray(start, start + length);
    if (method === 8) {
      const stream = new Blob([body]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
      body = new Uint8Array(await new Response(stream).arrayBuffer());
    } else if (method) throw new Refused(`${file} is packed in a way that is not read here.`, "numpy.savez writes what is.");
    found[name] = npyArray(body, `${name} of ${file}`);
    next += 46 + own + extra + said;
  }
  return found;
}

/** The arrays of JSON: nested lists of numbers, or an object of them by name. */
function jsonArrays(text, file) {
  let told;
  try { told = JSON.parse(text); } catch (error) { throw new Refused(`${file} is no JSON: ${error.message}.`); }
  const many = told !== null && typeof told === "object" && !Array.isArray(told);
  return Object.fromEntries(Object.entries(many ? told : { "": told }).map(([name, value]) => {
    const dims = [], data = [];
    for (let one = value; Array.isArray(one); one = one[0]) dims.push(one.length);
    (function walk(one, depth) {
      if (depth < dims.length) {
        if (!Array.isArray(one) || one.length !== dims[depth]) throw new Refused(`The lists of ${file} are not of equal length.`);
        for (const inner of one) walk(inner, depth + 1);
      } else if (typeof one === "boolean") data.push(Number(one));
      else if (typeof one === "number") data.push(one);
      else throw new Refused(`${file} holds ${JSON.stringify(one)} where a number was due.`);
    })(value, 0);
    return [name, { dims, data: Float64Array.from(data) }];
  }));
}

/** The arrays of a file by name; "" is the name of one that has none. */
async function arraysOf(file) {
  const bytes = new Uint8Array(await file.arrayBuffer()), name = file.name.toLowerCase();
  if (name.endsWith(".npz")) return npzArrays(bytes, file.name);
  if (name.endsWith(".npy")) return { "": npyArray(bytes, file.name) };
  return jsonArrays(new TextDecoder().decode(bytes), file.name);
}
