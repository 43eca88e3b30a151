"use strict";

// The network's numbers, and its arithmetic repeated in double precision.
//
// Each number here comes with a bound of its error: `y` is a value, and the engine's value, in
// float32, is within `e` of it. The bound holds for any order in which the engine adds: the float32
// sum of n terms differs from the exact sum by at most
//
//     n U / (1 - n U) * (the sum of their sizes),    U = 2^-24    (Higham 2002, section 3.1)

const U = 2 ** -24;
const data = JSON.parse(document.getElementById("data").textContent);
const TYPES = {
  int16: Int16Array, uint16: Uint16Array, uint32: Uint32Array, int32: Int32Array,
  uint8: Uint8Array, float32: Float32Array, float64: Float64Array,
};

// A block of base64 as an array, decoded when it is first asked for.
function array(block) {
  if (!block.array) {
    const text = atob(block.data);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    block.array = new TYPES[block.type](bytes.buffer);
    block.data = null;
  }
  return block.array;
}

const rounding = (n) => (n * U) / (1 - n * U);

// Stages have shapes (H, W, C); a dense layer is 1 x 1 x units.
const stages = data.stages.map((s, n) => {
  const [H, W, C] = s.shape.length === 3 ? s.shape : [1, 1, s.shape[0]];
  const [IH, IW, IC] = s.inputs.length === 3 ? s.inputs : [1, 1, s.inputs[0]];
  return { ...s, n, H, W, C, IH, IW, IC, bits: data.stages[n] };
});
const byName = new Map(stages.map((s) => [s.name, s]));
const cache = new Map();

// {H, W, C, y, e} of a stage's output; n = -1 is the prepared picture.
function values(n) {
  if (!cache.has(n)) {
    let found;
    if (n < 0) {
      const [H, W, C] = data.input.numbers.shape;
      found = unpacked(data.input, H, W, C);
    } else {
      const s = stages[n];
      found = COMPUTE[s.kind](s, values(n - 1));
      Object.assign(found, { H: s.H, W: s.W, C: s.C });
    }
    cache.set(n, found);
  }
  return cache.get(n);
}

function unpacked(block, H, W, C) {
  const q = array(block.numbers);
  const y = new Float64Array(q.length);
  const e = new Float64Array(q.length);
  for (let i = 0; i < q.length; i++) {
    y[i] = q[i] * block.scales[i % C];
    e[i] = 0.50001 * block.scales[i % C];
  }
  return { H, W, C, y, e };
}

function elementwise(x, f) {
  const y = new Float64Array(x.y.length);
  const e = new Float64Array(x.y.length);
  for (let i = 0; i < y.length; i++) [y[i], e[i]] = f(x.y[i], x.e[i]);
  return { y, e };
}

const COMPUTE = {
  Conv: (s) => unpacked(s.bits.outputs, s.H, s.W, s.C),
  Dense: (s) => {
    const y = Float64Array.from(array(s.bits.values));
    return { y, e: new Float64Array(y.length) };
  },
  ReLU: (s, x) => elementwise(x, (v, e) => [Math.max(0, v), e]),
  Tanh: (s, x) => elementwise(x, (v, e) => [Math.tanh(v), e + 8 * U]),
  Sigmoid: (s, x) => elementwise(x, (v, e) => [1 / (1 + Math.exp(-v)), e / 4 + 8 * U]),
  Dropout: (s, x) => {
    const factor = s.constants.inverted ? 1 : 1 - s.constants.p;
    return elementwise(x, (v, e) => [factor * v, factor * (e + 2 * U * (Math.abs(v) + e))]);
  },
  Pool: (s, x) => each(s, (h, w, c) => {
    const found = pooled(s, x, h, w, c);
    return [found.value, found.bound];
  }),
  LRN: (s, x) => each(s, (h, w, c) => {
    const found = normalised(s, x, h, w, c);
    return [found.value, found.bound];
  }),
  LRNWithinMap: (s, x) => COMPUTE.LRN(s, x),
};

function each(s, f) {
  const y = new Float64Array(s.H * s.W * s.C);
  const e = new Float64Array(y.length);
  let i = 0;
  for (let h = 0; h < s.H; h++)
    for (let w = 0; w < s.W; w++) for (let c = 0; c < s.C; c++, i++) [y[i], e[i]] = f(h, w, c);
  return { y, e };
}

const at = (x, h, w, c) => (h * x.W + w) * x.C + c;

// The inputs of one pooling window that lie inside the picture, in row order: [{h, w, c, y, e}].
function taps(s, x, h, w, c) {
  const { size, stride } = s.constants;
  const found = [];
  for (let i = h * stride; i < Math.min(h * stride + size, x.H); i++)
    for (let j = w * stride; j < Math.min(w * stride + size, x.W); j++)
      found.push({ h: i, w: j, c, y: x.y[at(x, i, j, c)], e: x.e[at(x, i, j, c)] });
  return found;
}

function pooled(s, x, h, w, c) {
  const window = taps(s, x, h, w, c);
  if (s.constants.mean) {
    let sum = 0, size = 0, e = 0;
    for (const t of window) { sum += t.y; size += Math.abs(t.y); e += t.e; }
    const n = window.length;
    return { window, value: sum / n, bound: (e + rounding(n + 1) * (size + e)) / n };
  }
  let winner = 0, bound = 0;
  window.forEach((t, i) => {
    if (t.y > window[winner].y) winner = i;
    bound = Math.max(bound, t.e);
  });
  return { window, winner, value: window[winner].y, bound };
}

// The inputs in the window of a normalisation, including the position itself.
function neighbours(s, x, h, w, c) {
  const { n, groups } = s.constants;
  const before = Math.floor(n / 2), after = Math.floor((n - 1) / 2);
  const found = [];
  const push = (i, j, k) =>
    found.push({ h: i, w: j, c: k, y: x.y[at(x, i, j, k)], e: x.e[at(x, i, j, k)] });
  if (s.kind === "LRN") {
    const width = x.C / groups, first = Math.floor(c / width) * width;
    for (let k = Math.max(c - before, first); k <= Math.min(c + after, first + width - 1); k++)
      push(h, w, k);
  } else {
    for (let i = Math.max(h - before, 0); i <= Math.min(h + after, x.H - 1); i++)
      for (let j = Math.max(w - before, 0); j <= Math.min(w + after, x.W - 1); j++) push(i, j, c);
  }
  return found;
}

// x s^-beta, s = k + alpha * sum of squares; the bound comes from interval arithmetic.
function normalised(s, x, h, w, c) {
  const { n, k, beta } = s.constants;
  const divided = s.kind === "LRNWithinMap" ? n * n : s.constants.divide_by_n ? n : 1;
  const alpha = s.constants.alpha / divided;
  const window = neighbours(s, x, h, w, c);
  let squares = 0, least = 0, most = 0;
  for (const t of window) {
    const size = Math.abs(t.y);
    squares += t.y * t.y;
    least += Math.max(0, size - t.e) ** 2;
    most += (size + t.e) ** 2;
  }
  const scale = k + alpha * squares;
  const own = x.y[at(x, h, w, c)], e = x.e[at(x, h, w, c)];
  const value = own * scale ** -beta;
  const high = (Math.abs(own) + e) * (k + alpha * least) ** -beta;
  const low = Math.max(0, Math.abs(own) - e) * (k + alpha * most) ** -beta;
  const size = Math.abs(value);
  // The engine rounds the sum, then a power of it, and the product.
  const rounded = rounding(Math.ceil(2 * (window.length + 8) * Math.max(1, beta))) * high;
  const bound = Math.max(high - size, size - low) + rounded;
  return { window, own, squares, alpha, scale, value, bound };
}

// The products of one output of a convolution, their sum, and the engine's value. `products` is
// null if the page does not hold this filter.
function convolved(s, h, w, m) {
  const x = values(s.n - 1);
  const { size, stride, padding, groups, filters } = s.constants;
  const row = s.kept ? s.kept.indexOf(m) : m;
  const outputs = s.bits.outputs;
  const engine = values(s.n).y[at(s, h, w, m)];
  const known = 0.50001 * outputs.scales[m];
  if (row < 0) return { products: null, engine, known };
  const q = array(s.bits.weights.numbers);
  const scale = s.bits.weights.scales[row], half = 0.50001 * scale;
  const depth = x.C / groups, first = Math.floor(m / (filters / groups)) * depth;
  const bias = array(s.bits.bias)[m];
  const products = [];
  let sum = bias, spread = 0, sizes = Math.abs(bias);
  for (let kh = 0; kh < size; kh++) {
    const i = h * stride - padding + kh;
    if (i < 0 || i >= x.H) continue;
    for (let kw = 0; kw < size; kw++) {
      const j = w * stride - padding + kw;
      if (j < 0 || j >= x.W) continue;
      for (let c = 0; c < depth; c++) {
        const weight = q[((row * size + kh) * size + kw) * depth + c] * scale;
        const place = at(x, i, j, first + c), v = x.y[place], e = x.e[place];
        sum += weight * v;
        spread += Math.abs(weight) * e + half * (Math.abs(v) + e);
        sizes += (Math.abs(weight) + half) * (Math.abs(v) + e);
        products.push({ kh, kw, h: i, w: j, c: first + c, x: v, weight, product: weight * v });
      }
    }
  }
  const own = spread + rounding(products.length + 1) * sizes; // between the sum and the engine's
  return { products, bias, sum, engine, known, bound: own + known, own };
}

// The largest products of a unit of a dense layer, and the sum of the rest.
function weighted(s, u) {
  const x = values(s.n - 1);
  const index = array(s.bits.index), weight = array(s.bits.weight);
  const count = s.bits.index.shape[1], inputs = s.IH * s.IW * s.IC;
  const bias = array(s.bits.bias)[u], rest = array(s.bits.rest)[u];
  const products = [];
  let sum = bias + rest, spread = 0;
  for (let k = 0; k < count; k++) {
    const i = index[u * count + k], w = weight[u * count + k];
    const c = i % s.IC, j = Math.floor(i / s.IC);
    sum += w * x.y[i];
    spread += Math.abs(w) * x.e[i];
    const place = { h: Math.floor(j / s.IW), w: j % s.IW, c };
    products.push({ ...place, x: x.y[i], weight: w, product: w * x.y[i] });
  }
  const sizes = array(s.bits.size)[u] + Math.abs(bias);
  const bound = spread + rounding(inputs + 1) * sizes;
  return { products, bias, rest, others: inputs - count, sum, engine: values(s.n).y[u], bound };
}

// Probabilities from the logits, in the order of the classes, and a bound of their error.
function softmax() {
  const { y } = values(stages.length - 1);
  const largest = y.reduce((a, b) => Math.max(a, b));
  const e = Array.from(y, (v) => Math.exp(v - largest));
  const total = e.reduce((a, b) => a + b);
  const spread = Array.from(y, (v) => (y.length + 8 + 2 * Math.abs(v - largest)) * U);
  const least = 2 ** -126; // below it float32 has fewer digits, or none
  const bound = e.map((v, i) => 2 * spread[i] * (v / total) + least);
  return { p: e.map((v) => v / total), bound };
}

// What the page knows of one output: its own value, how far the engine's value may be from it, and
// the engine's value itself if the page holds it.
function check(name, m, h, w) {
  const s = byName.get(name);
  if (s.kind === "Conv") {
    const found = convolved(s, h, w, m);
    if (!found.products) return { sum: found.engine, engine: found.engine, bound: found.known };
    return { sum: found.sum, engine: found.engine, bound: found.own, known: found.known };
  }
  if (s.kind === "Dense") return weighted(s, m);
  const v = values(s.n), i = at(s, h, w, m);
  return { sum: v.y[i], bound: v.e[i] };
}
