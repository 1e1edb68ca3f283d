"use strict";
// Pictures of arrays: an input, a heat map, bars.

function element(name, words = "", parent = null) {
  const made = document.createElement(name);
  made.textContent = words;
  if (parent) parent.append(made);
  return made;
}

function number(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  return value === 0 ? "0" : size >= 1e5 || size < 1e-3 ? value.toExponential(2) : value.toPrecision(4).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

/** Where the channels of `[a, b, c]` lie: 0 or 2, or null for no image. Few beside many are channels. */
function channelsOf([a, b, c]) {
  if (c <= 4 && a > 4 && b > 4) return 2;
  return b > 1 && c > 1 ? 0 : null;
}

/** The sums over channels as an image `{ height, width, at }`, or null for what is none. */
function imageOf(dims, data) {
  if (dims.length === 2 && dims[0] > 1 && dims[1] > 1) return { height: dims[0], width: dims[1], channels: 1, at: (y, x) => data[y * dims[1] + x] };
  if (dims.length !== 3) return null;
  const axis = channelsOf(dims);
  if (axis === null) return null;
  const [channels, height, width] = axis ? [dims[2], dims[0], dims[1]] : dims;
  const place = (c, y, x) => (axis ? (y * width + x) * channels + c : (c * height + y) * width + x);
  return {
    height, width, channels, place,
    at: (y, x) => {
      let sum = 0;
      for (let c = 0; c < channels; c++) sum += data[place(c, y, x)];
      return sum;
    },
  };
}

function painted(height, width, colour, words) {
  const canvas = document.createElement("canvas"), pixels = new ImageData(width, height);
  canvas.width = width;
  canvas.height = height;
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) pixels.data.set([...colour(y, x), 255], 4 * (y * width + x));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", words);
  return canvas;
}

/** An input as a picture: its values from the least to the most. */
function picture(dims, data, words) {
  const image = imageOf(dims, data);
  if (!image || (dims.length === 3 && ![1, 3].includes(image.channels))) return null;
  let low = Infinity, high = -Infinity;
  for (const one of data) { low = Math.min(low, one); high = Math.max(high, one); }
  const grey = (value) => (255 * (value - low)) / (high - low || 1);
  const colour = image.channels === 3 ? (y, x) => [0, 1, 2].map((c) => grey(data[image.place(c, y, x)])) : (y, x) => Array(3).fill(grey(image.at(y, x)));
  return painted(image.height, image.width, colour, words);
}

/** Red for the target, blue against it, white for neither; the most intense is the 99.5th percentile. */
function heat(image, words) {
  const sizes = [];
  for (let y = 0; y < image.height; y++) for (let x = 0; x < image.width; x++) sizes.push(Math.abs(image.at(y, x)));
  sizes.sort((a, b) => a - b);
  const most = sizes[Math.min(sizes.length - 1, Math.floor(sizes.length * 0.995))] || sizes.at(-1) || 1;
  return painted(image.height, image.width, (y, x) => {
    const part = Math.max(-1, Math.min(1, image.at(y, x) / most)), pale = 1 - Math.abs(part);
    return part > 0 ? [255 - 63 * part, 57 + 198 * pale, 43 + 212 * pale] : [47 + 208 * pale, 109 + 146 * pale, 179 + 76 * pale];
  }, words);
}

/** The largest numbers as a table with bars. */
function bars(values, what) {
  const order = [...values.keys()].sort((a, b) => Math.abs(values[b]) - Math.abs(values[a])).slice(0, 16);
  const most = Math.abs(values[order[0]]) || 1, table = document.createElement("table");
  element("caption", values.length > order.length ? `The ${order.length} largest of ${values.length} ${what}` : `All ${values.length} ${what}, the largest first`, table);
  for (const k of order) {
    const row = element("tr", "", table), share = Math.abs(values[k]) / most;
    element("th", String(k), row).scope = "row";
    element("td", number(values[k]), row);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" })) svg.setAttribute(name, value);
    for (const [name, value] of Object.entries({ width: 100 * share, height: 10, class: values[k] > 0 ? "for" : "against" })) bar.setAttribute(name, value);
    svg.append(bar);
    const cell = element("td", "", row);
    cell.className = "bar";
    cell.append(svg);
  }
  return table;
}

/** The sums along the first axis that a unit, channel or position has. */
function along(dims, data, axis) {
  const inner = count(dims.slice(axis + 1)), sums = new Array(dims[axis]).fill(0);
  for (let k = 0; k < data.length; k++) sums[Math.floor(k / inner) % dims[axis]] += data[k];
  return sums;
}

/** Draws the attributions of one layer, without the axis of samples. */
function drawn(layer, dims, data) {
  const figure = document.createElement("figure");
  element("figcaption", layer, figure);
  const image = dims.length === 3 ? imageOf(dims, data) : null;
  if (image) {
    figure.append(heat(image, `Heat map of ${layer}: red for the target, blue against it`));
    if (image.channels > 4) figure.append(bars(along(dims, data, channelsOf(dims)), "channels"));
  } else if (dims.length === 2 && dims[0] > 1 && dims[1] > 1) {
    figure.append(bars(along(dims, data, 0), "positions"));
  } else if (dims.length > 3) figure.append(bars(along(dims, data, 0), "channels"));
  else figure.append(bars(Array.from(data), "units"));
  return figure;
}
