"use strict";
// The page: what is chosen, what is run, what is shown.

const $ = (id) => document.getElementById(id);
const state = { program: null, arrays: null, image: null, drawing: null, answers: [], turn: 0 };

function say(words) { $("status").textContent = words; }

function refuse(error) {
  const box = $("refusal");
  box.replaceChildren();
  const known = error instanceof Refused;
  const first = element("p", "", box);
  element("strong", known ? error.message : `Something went wrong: ${error?.message ?? error}`, first);
  if (known && error.hint) element("p", error.hint, box);
  box.hidden = false;
  say("");
}

/** Does one thing after another; what was begun before is not shown any more. */
async function doing(words, work) {
  const turn = ++state.turn;
  $("refusal").hidden = true;
  $("answers").replaceChildren();
  $("save").hidden = $("legend").hidden = true;
  state.answers = [];
  delete window.result;
  say(words);
  $("go").disabled = true;
  try {
    await new Promise((done) => setTimeout(done)); // the words are seen before the thread is busy
    await work(() => turn === state.turn);
  } catch (error) {
    if (turn === state.turn) {
      $("answers").replaceChildren();
      refuse(error);
      window.result = JSON.stringify({ refused: $("refusal").innerText });
    }
  } finally { $("go").disabled = false; }
}

// --- The program

async function choose(name, bytes, current) {
  let provider = $("provider").value, note = "";
  if (provider === "webgpu" && (note = await noAdapter())) provider = "wasm";
  const old = state.program;
  state.program = null;
  $("asked").hidden = $("asked").disabled = true;
  await old?.release();
  const open = (one) => Program.open(name, bytes, one);
  let program;
  try { program = await open(provider); } catch (error) {
    if (provider !== "webgpu") throw error;
    program = await open("wasm");
    note = `The graphics card does not take it (${error.message}).`;
  }
  if (!current()) return program.release();
  state.program = program;
  const facts = (one) => program.facts[`onnx_attribution.${one}`], method = (facts("method") ?? "").replaceAll("_", " ");
  $("what").textContent = method ? `${method} of ${facts("layers")}` : name;
  $("targeted").hidden = !program.input("target") && !program.input("target/weight");
  $("based").hidden = !program.baselines.length;
  $("stepped").hidden = !program.input("steps");
  $("shapes").textContent = program.own.map((one) => `${one.name} ${told(program, one)}`).join("; ");
  $("asked").hidden = $("asked").disabled = false;
  try { show(); } catch { // what was chosen for another program
    state.arrays = state.image = null;
    $("input").value = "";
  }
  ready(note ? `${note} It runs on the processor.` : "");
}

function ready(note = "") {
  const given = state.arrays || state.image;
  say(`${note} ${given ? "" : pictured() ? "Choose an input, or draw one." : "Choose an input."}`.trim());
  show();
}

/** The input that is a picture, with its axes: `{ value, channels, height, width, last }`; null where there is none. */
function pictured() {
  const found = state.program?.own ?? [], [value] = found;
  if (found.length !== 1 || value.shape.length !== 4) return null;
  const [, a, b, c] = value.shape, last = [1, 3].includes(c) && ![1, 3].includes(a);
  const [channels, height, width] = last ? [c, a, b] : [a, b, c];
  return [1, 3].includes(channels) ? { value, channels, height, width, last } : null;
}

// --- The input

const SCALES = {
  unit: (one) => one / 255, byte: (one) => one, sign: (one) => one / 127.5 - 1, inverse: (one) => 1 - one / 255,
  imagenet: (one, c) => (one / 255 - [0.485, 0.456, 0.406][c % 3]) / [0.229, 0.224, 0.225][c % 3],
};

/** The array of a picture, as the program takes it. */
function pixels(bitmap) {
  const place = pictured();
  if (!place) throw new Refused("The program takes no picture.", `It takes ${$("shapes").textContent}, of a .npz, .npy or .json file.`);
  const size = (wanted, own) => (typeof wanted === "number" ? wanted : Math.min(own, 224));
  const height = size(place.height, bitmap.height), width = size(place.width, bitmap.width);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, width, height);
  const from = context.getImageData(0, 0, width, height).data, { channels, last } = place, data = new Float64Array(channels * height * width);
  for (let k = 0; k < height * width; k++) {
    const [r, g, b] = from.subarray(4 * k, 4 * k + 3);
    const colours = channels === 3 ? [r, g, b] : [0.299 * r + 0.587 * g + 0.114 * b];
    colours.forEach((one, c) => { data[last ? k * channels + c : c * height * width + k] = SCALES[$("scale").value](one, c); });
  }
  return { dims: last ? [1, height, width, channels] : [1, channels, height, width], data };
}

/** The array of an input, by its name or as the only one that can be meant. */
function arrayOf(value) {
  if (state.image) return pixels(state.image);
  if (state.drawing) return state.drawing;
  const given = state.arrays;
  if (!given) throw new Refused("There is no input.", `Choose a file of ${$("shapes").textContent}.`);
  if (given[value.name]) return given[value.name];
  const names = Object.keys(given).filter((one) => !ROLES.test(one)), rank = value.shape.length;
  if (state.program.own.length === 1) {
    const alike = names.length === 1 ? names : names.filter((one) => given[one].dims.length === rank);
    if (alike.length === 1) return given[alike[0]];
  }
  throw new Refused(`The file has no array ${value.name}; it has ${names.map((one) => one || "one without a name").join(", ")}.`);
}

function show() {
  const program = state.program, box = $("given");
  box.hidden = true;
  $("rowed").hidden = true;
  $("scaled").hidden = !pictured() || Boolean(state.arrays);
  if (!program?.own.length) return;
  const place = pictured(), [value] = program.own;
  let array = null;
  if (state.drawing && (!place || count(state.drawing.dims) !== place.width * place.height)) state.drawing = null;
  try { array = arrayOf(value); } catch (error) { if (state.arrays || state.image) throw error; }
  if (!array && place?.channels === 1 && typeof place.height === "number" && typeof place.width === "number" && place.width * place.height <= 1024) {
    const dims = place.last ? [1, place.height, place.width, 1] : [1, 1, place.height, place.width];
    array = state.drawing = { dims, data: new Float64Array(place.height * place.width) };
  }
  if (!array) return;
  const axis = program.axisOf(value), many = array.dims.length === value.shape.length && axis >= 0 ? array.dims[axis] : 1;
  $("rowed").hidden = many < 2;
  $("row").max = many - 1;
  $("rows").textContent = `0 to ${many - 1}`;
  if (Number($("row").value) >= many) $("row").value = 0;
  const tensor = program.sample(value, array, Number($("row").value));
  const canvas = place && picture(tensor.dims.slice(1), Array.from(tensor.data, Number), "The input");
  if (!canvas) return;
  const pen = state.drawing === array;
  $("pen").textContent = pen ? "draw on it; Delete clears it" : "";
  box.querySelector("canvas")?.remove();
  box.append(canvas);
  box.hidden = false;
  if (!pen) return;
  canvas.className = "pen";
  canvas.tabIndex = 0;
  canvas.onpointerdown = canvas.onpointermove = (event) => {
    if (!event.buttons) return;
    const edge = canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - edge.left) / edge.width, (event.clientY - edge.top) / edge.height];
    const column = Math.floor(x * place.width), line = Math.floor(y * place.height);
    if (column < 0 || line < 0 || column >= place.width || line >= place.height) return;
    array.data[line * place.width + column] = 1;
    canvas.getContext("2d").fillStyle = "#fff";
    canvas.getContext("2d").fillRect(column, line, 1, 1);
  };
  canvas.onkeydown = (event) => {
    if (event.key !== "Delete" && event.key !== "Backspace") return;
    array.data.fill(0);
    show();
    $("given").querySelector("canvas").focus();
  };
}

// --- The answer

/** The targets that were asked for: lists of as many parts as the target has axes. */
function targets() {
  const program = state.program, value = program.input("target"), weights = program.input("target/weight");
  if (!value && !weights) return [null];
  const words = $("target").value.trim(), axes = value ? value.shape[1] ?? 1 : weights.shape.length - 1;
  const range = /^(\d+)\s*-\s*(\d+)$/.exec(words);
  if (range && axes === 1) {
    const [low, high] = range.slice(1).map(Number);
    if (low > high || high - low > 99) throw new Refused(`${words} is no range of up to 100 targets.`);
    return Array.from({ length: high - low + 1 }, (_, k) => [low + k]);
  }
  const parts = words.split(/[\s,;]+/).filter(Boolean).map(Number);
  if (!parts.length || parts.some((one) => !Number.isInteger(one))) throw new Refused(`“${words}” is no target.`, "A whole number is, such as 7 or -1, a list such as 3, 5 or a range such as 0-9.");
  if (parts.length % axes) throw new Refused(`The target has ${axes} axes: an index has ${axes} parts, such as ${Array(axes).fill(0).join(", ")}.`);
  return Array.from({ length: parts.length / axes }, (_, k) => parts.slice(k * axes, (k + 1) * axes));
}

function weighted(value, index) {
  if (value.shape.slice(1).some((size) => typeof size !== "number")) throw new Refused(`${value.name} has sizes that this page does not know.`, "Build the file without --target-weights: the target is then an index.");
  const dims = [1, ...value.shape.slice(1)], data = new Array(count(dims)).fill(0);
  const at = index.reduce((place, one, k) => place * dims[k + 1] + (one < 0 ? one + dims[k + 1] : one), 0);
  if (index.some((one, k) => one >= dims[k + 1] || one < -dims[k + 1])) throw new Refused(`There is no target ${index}: its shape is [${dims.slice(1)}].`);
  data[at] = 1;
  return state.program.tensor(value, data, dims);
}

function feedsOf(index) {
  const program = state.program, row = Number($("row").value), feeds = {};
  for (const value of program.own) feeds[value.name] = program.sample(value, arrayOf(value), row);
  for (const value of program.baselines) {
    const given = state.arrays?.[value.name], level = $("baseline").value.trim() === "" ? NaN : Number($("baseline").value);
    if (!given && !Number.isFinite(Math.fround(level))) throw new Refused("The baseline is no number of float32.");
    feeds[value.name] = given ? program.sample(value, given, given.dims[0] > 1 ? row : 0) : program.constant(value, level, feeds);
  }
  const target = program.input("target"), weights = program.input("target/weight");
  if (target) feeds.target = program.tensor(target, index, target.shape.length > 1 ? [1, index.length] : [1]);
  if (weights) feeds["target/weight"] = weighted(weights, index);
  const steps = Number($("steps").value);
  if (program.input("steps")) {
    if (!(Number.isInteger(steps) && steps > 0)) throw new Refused("The number of steps is no whole number above 0.");
    feeds.steps = program.tensor(program.input("steps"), [steps], [1]);
  }
  return feeds;
}

async function explain(current) {
  const asked = targets(), begun = performance.now();
  for (const [k, index] of asked.entries()) {
    if (asked.length > 1) say(`Target ${k + 1} of ${asked.length} …`);
    const made = await attempt(feedsOf(index), current);
    if (!current()) return;
    answer(index, made);
  }
  const program = state.program, rows = program.rowsOf(Number($("steps").value));
  const each = rows ? ` with ${rows} ${String(rows) === "1" ? "row" : "rows"} of the network${asked.length > 1 ? " each" : ""}` : "";
  const where = program.provider === "webgpu" ? "the graphics card" : "the processor";
  say(`${state.note ?? ""} Done in ${((performance.now() - begun) / 1000).toFixed(2)} s on ${where}${each}.`.trim());
  $("save").hidden = $("legend").hidden = false;
  $("complete").hidden = !program.outputs.some((one) => one.name.startsWith("residual"));
  window.result = JSON.stringify(state.answers);
}

/** Runs it; where the graphics card fails, on the processor. */
async function attempt(feeds, current) {
  state.note = "";
  try { return await state.program.run(feeds); } catch (error) {
    if (state.program.provider !== "webgpu" || !current()) throw error;
    const { name, bytes } = state.program, words = error.message;
    state.program = await Program.open(name, bytes, "wasm");
    const made = await state.program.run(Object.fromEntries(Object.entries(feeds).map(([key, one]) => [key, new state.program.ort.Tensor(one.type, one.data, one.dims)])));
    state.note = `The graphics card could not (${words})`;
    return made;
  }
}

function answer(index, made) {
  const program = state.program, box = element("article", "", $("answers"));
  const one = (name) => (made[name] ? Number(made[name].data[0]) : undefined), said = { target: index, outputs: {} };
  element("h3", index ? `Target ${index.join(", ")}` : "The target of the file", box);
  const list = element("dl", "", box), fact = (name, value) => { element("dt", name, list); element("dd", value, list); };
  fact("F(x)", number(one("target/value")));
  if (made["target/baseline"]) fact("F(baseline)", number(one("target/baseline")));
  if (made.residual) fact("completeness error", `${number(one("residual"))}, of all layers`);
  for (const layer of program.layers) {
    const value = made[`attribution/${layer}`], axis = program.axisOf(program.outputs.find((z) => z.name === `attribution/${layer}`));
    const dims = value.dims.filter((size, k) => k !== axis), data = Float64Array.from(value.data, Number);
    if (data.some(Number.isNaN)) throw new Refused(`Attributions of ${layer} are no numbers.`, "DeepLIFT is where a change goes through an operator without a secant, or the two inputs take different branches; other numbers overflow. onnx-attribution explain says which.");
    const sum = data.reduce((total, part) => total + part, 0), size = data.reduce((total, part) => total + Math.abs(part), 0);
    const figure = drawn(layer, dims, data), facts = element("dl", "", figure);
    const told = (name, words) => { element("dt", name, facts); element("dd", words, facts); };
    told("sum", number(sum));
    const share = (part) => (size ? `, ${(100 * Math.abs(part) / size).toPrecision(2)} % of the L1 norm` : "");
    const residual = one(`residual/${layer}`), error = one(`error_estimate/${layer}`);
    if (residual === undefined && made["target/baseline"]) told("completeness error", "none: ways from input to target go around this layer");
    if (residual !== undefined) told("completeness error", number(residual) + share(residual));
    if (error !== undefined) told("L1 error, estimated", Number.isNaN(error) ? "none: it needs two steps" : number(error) + share(error));
    box.append(figure);
  }
  for (const [name, value] of Object.entries(made)) said.outputs[name] = { type: value.type, dims: [...value.dims], data: Array.from(value.data, Number) };
  state.answers.push(said);
}

// --- What people do

$("program").onchange = () => doing("The program is opened …", async (current) => {
  const [file] = $("program").files;
  if (file) await choose(file.name, new Uint8Array(await file.arrayBuffer()), current);
});
$("provider").onchange = () => state.program && doing("The program is opened …", (current) => choose(state.program.name, state.program.bytes, current));
$("input").onchange = () => doing("The input is read …", async (current) => {
  const [file] = $("input").files;
  if (!file) return;
  state.arrays = state.image = state.drawing = null;
  if (file.type.startsWith("image/")) {
    try { state.image = await createImageBitmap(file); } catch { throw new Refused(`${file.name} is no picture that this browser reads.`); }
  } else state.arrays = await arraysOf(file);
  if (current()) ready("Ready.");
});
for (const id of ["row", "scale"]) $(id).onchange = () => { $("refusal").hidden = true; try { show(); } catch (error) { refuse(error); } };
$("form").onsubmit = (event) => {
  event.preventDefault();
  if (state.program) doing("It runs …", explain);
};
$("save").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify({ program: state.program.name, ...state.program.facts, answers: state.answers })], { type: "application/json" }));
  link.download = "attributions.json";
  link.click();
  URL.revokeObjectURL(link.href);
};

if (location.protocol === "file:") {
  refuse(new Refused("A browser opens no programs for pages that are files.", "In the folder of this page: python -m http.server, then http://localhost:8000"));
} else if (new URLSearchParams(location.search).has("program")) {
  const name = new URLSearchParams(location.search).get("program");
  doing("The program is fetched …", async (current) => {
    const got = await fetch(name);
    if (!got.ok) throw new Refused(`There is no ${name} beside this page.`);
    await choose(name, new Uint8Array(await got.arrayBuffer()), current);
  });
}
