"use strict";

// The views: each returns the elements of a page. `go(hash)` follows a link.

const className = (k) => data.classes[k] ?? `class ${k}`;
const stageLink = (s) => h("a", { href: `#stage/${s.name}` }, s.name);
const positionHash = (s, m, i, j) => `#${s.name}/${m}/${i},${j}`;
const shapeText = (s) => s.shape.join(" x ");
const isMaps = (s) => s.shape.length === 3;
const what = (s) => (isMaps(s) ? "map" : "unit");

function best(count) {
  const { p } = softmax();
  const order = [...p.keys()].sort((a, b) => p[b] - p[a] || a - b);
  return order.slice(0, count).map((k) => ({ k, p: p[k] }));
}

function overview() {
  const rows = best(5).map(({ k, p }) => [className(k), percent(p), bar(p)]);
  const truth = data.picture.truth;
  return [
    h("h2", {}, "From the pixels to the answer"),
    h("div", { class: "row" },
      h("div", {}, photo(227), h("p", { class: "small" }, data.picture.words)),
      h("div", {},
        table("The five likeliest classes", ["class", "probability", ""], rows),
        truth === null ? null : h("p", {}, `Its class is ${className(truth)}.`))),
    data.absent.picture ? h("p", {}, `No held-out picture could be shown: ${data.absent.picture}`) : null,
    h("h3", {}, "The stages, sides and depths to scale; dense layers by their number of units"),
    blocks(),
    h("p", {}, "Each stage is a link to its numbers. A position in it, such as ",
      positionExample(), ", shows how that one number was computed."),
  ];
}

function positionExample() {
  const s = stages.find((t) => t.kind === "Conv") || stages[0];
  const m = strongestMap(s), top = peak(values(s.n), m);
  return h("a", { href: positionHash(s, m, top.i, top.j) }, `${s.name}, ${what(s)} ${m}, ${place(top.i, top.j)}`);
}

// Boxes whose height is a stage's side and whose width is its depth, each on its own scale.
function blocks() {
  const shown = stages.filter((s) => ["Conv", "Dense", "Pool"].includes(s.kind));
  const largest = Math.max(...shown.filter(isMaps).map((s) => s.H), 1);
  const items = shown.map((s) => {
    const height = isMaps(s) ? Math.max(4, (160 * s.H) / largest) : Math.max(8, s.C / 32);
    const width = isMaps(s) ? Math.max(4, s.C / 8) : 10;
    const svg = h("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
      h("rect", { class: "block", x: 0.5, y: 0.5, width: width - 1, height: height - 1 }));
    return h("figure", {}, svg, h("figcaption", {}, stageLink(s), h("br"), shapeText(s)));
  });
  return h("div", { class: "grid" }, items);
}

function strongestMap(s) {
  const x = values(s.n);
  let m = 0, top = -Infinity;
  for (let c = 0; c < x.C; c++) {
    const { value } = peak(x, c);
    if (value > top) [m, top] = [c, value];
  }
  return m;
}

// --- one stage ---------------------------------------------------------------------------------

function stageView(s, state) {
  return [
    h("h2", {}, `${s.name}: ${s.kind}, ${s.inputs.join(" x ")} to ${shapeText(s)}`),
    facts(s),
    code(s),
    s.kind === "Conv" ? filters(s, state) : null,
    isMaps(s) ? maps(s, state) : units(s),
  ];
}

function facts(s) {
  const rows = [];
  if (s.arithmetic) {
    rows.push(["side", minus(`${s.H} = ${s.arithmetic.replaceAll("*", " \u00b7 ")}`)]);
    const { size, stride, padding } = s.constants;
    const first = padding ? `${padding} before the first pixel` : "at the first pixel";
    rows.push(["in words", `a window of ${size} starts ${first}, and ${s.H - 1} more follow, each ${stride} further`]);
  }
  if (s.parameters) rows.push(["parameters", whole(s.parameters)]);
  if (s.multiplyAdds) rows.push(["multiply-adds", whole(s.multiplyAdds)]);
  rows.push(["memory of the output", `${whole(s.bytesOut)} bytes`]);
  rows.push(["an output sees", s.jump
    ? `${s.field} x ${s.field} input pixels; neighbouring outputs are ${s.jump} pixels apart`
    : "the whole picture"]);
  for (const [name, value] of Object.entries(s.constants))
    if (value !== null && value !== false && !["std", "bias"].includes(name)) rows.push([name, typeof value === "number" ? number(value) : minus(String(value))]);
  return table(`${s.name} in numbers`, ["", ""], rows, "words");
}

function code(s) {
  const own = data.code[s.kind === "Pool" && s.constants.mean ? "AvgPool" : s.kind];
  if (!own) return null;
  const lines = (part) => h("pre", { tabindex: 0 }, part.lines.map(([n, line]) =>
    [h("span", { class: "line" }, `${String(n).padStart(4)}  `), line, "\n"]));
  return h("div", {},
    h("pre", { tabindex: 0, "aria-label": "formula" }, own.formula),
    own.parts.map((part) => h("details", {}, h("summary", {}, part.file), lines(part))));
}

function weightOf(s, row, kh, kw, c) {
  const { size, groups } = s.constants;
  const depth = s.IC / groups;
  return array(s.bits.weights.numbers)[((row * size + kh) * size + kw) * depth + c] *
    s.bits.weights.scales[row];
}

// All filters of a layer that sees pictures in three colours; for other layers, those of one map.
function filters(s, state) {
  const { size, groups } = s.constants, depth = s.IC / groups;
  if (s.n === 0 && depth === 3) {
    const tiles = Array.from({ length: s.C }, (_, m) => {
      const limit = 32767 * s.bits.weights.scales[m];
      const label = `filter ${m}, largest weight ${number(limit, 3)}`;
      const tile = canvas(size, size, 4, label, (i, j) => [0, 1, 2].map((c) =>
        Math.round(127.5 + (127.5 * weightOf(s, m, i, j, c)) / (limit || 1))));
      return h("a", { href: mapHash(s, m) }, tile);
    });
    return h("div", {}, h("h3", {}, `${s.C} filters of ${size} x ${size}, each on its own scale`),
      h("p", { class: "small" }, "Grey is zero; red, green and blue are the weights of these colours in the picture."),
      h("div", { class: "grid" }, tiles));
  }
  const m = state.map ?? strongestMap(s);
  const row = s.kept ? s.kept.indexOf(m) : m;
  const choose = mapChoice(s, m, (n) => { state.map = n; render(); });
  if (row < 0) return h("div", {}, h("h3", {}, "Filters"), choose, notKept(s, m));
  const limit = 32767 * s.bits.weights.scales[row];
  const first = Math.floor(m / (s.constants.filters / groups)) * depth;
  const seen = (c) => (s.n ? `map ${first + c} of ${stages[s.n - 1].name}` : "the grey picture");
  const tiles = Array.from({ length: depth }, (_, c) =>
    canvas(size, size, 6, `weights of ${seen(c)}`, (i, j) =>
      colour(weightOf(s, row, i, j, c), limit)));
  return h("div", {},
    h("h3", {}, `Filter ${m}: ${size} x ${size} weights for each of the ${depth} maps it sees`),
    choose, scale(limit), h("div", { class: "grid" }, tiles));
}

const notKept = (s, m) => h("p", {},
  `The weights of map ${m} are not on this page, because it would be too large. Of ${s.name} it keeps` +
  ` only the ${s.kept.length} maps that are strongest for this picture. The value is the engine's.`);

function mapHash(s, m) {
  const top = peak(values(s.n), m);
  return positionHash(s, m, top.i, top.j);
}

function mapChoice(s, m, chosen) {
  const input = h("input", { id: "filter", type: "number", min: 0, max: s.C - 1, value: m, onchange: () => {
    chosen(Math.max(0, Math.min(s.C - 1, Math.round(Number(input.value) || 0))));
  } });
  return h("form", { onsubmit: (event) => event.preventDefault() }, h("label", {}, what(s), input));
}

function maps(s, state) {
  const x = values(s.n), together = state.scale === "layer";
  const limit = largest(x.y);
  const radio = (name, text) => h("label", {}, h("input", {
    id: `scale-${name}`, type: "radio", name: "scale", value: name, checked: (state.scale || "map") === name,
    onchange: () => { state.scale = name; render(); },
  }), text);
  const tiles = Array.from({ length: x.C }, (_, m) => {
    const top = peak(x, m);
    let own = 0, far = 0;
    for (let i = m; i < x.y.length; i += x.C)
      if (Math.abs(x.y[i]) > own) [own, far] = [Math.abs(x.y[i]), x.y[i]];
    const label = own
      ? `map ${m}: largest ${number(top.value, 3)} at ${place(top.i, top.j)}`
      : `map ${m}: zero everywhere`;
    return h("a", { href: positionHash(s, m, top.i, top.j) },
      h("figure", {}, mapCanvas(x, m, together ? limit : own, 60, label),
        h("figcaption", {}, `${m}: ${number(far, 3)}`)));
  });
  return h("div", {},
    h("h3", {}, `All ${x.C} maps`),
    h("form", {}, h("span", {}, "Scale the colours to the largest value of"),
      radio("map", "each map"), radio("layer", "the whole layer")),
    together ? scale(limit) : h("p", { class: "small" }, "Below each map are its number and its value farthest from zero."),
    h("div", { class: "grid" }, tiles));
}

function units(s) {
  const x = values(s.n), limit = largest(x.y);
  const order = [...x.y.keys()].sort((a, b) => x.y[b] - x.y[a]).slice(0, 40);
  const last = s.n === stages.length - 1;
  const columns = Math.min(64, x.C);
  return h("div", {},
    h("h3", {}, `${x.C} units`), scale(limit),
    canvas(Math.ceil(x.C / columns), columns, 8, `${x.C} values, ${columns} in a row`, (i, j) =>
      i * columns + j < x.C ? colour(x.y[i * columns + j], limit) : [225, 225, 225]),
    table("The largest values", ["unit", "value", ""], order.map((u) => [
      h("a", { href: positionHash(s, u, 0, 0) }, last ? `${u}: ${className(u)}` : String(u)),
      number(x.y[u]), bar(Math.abs(x.y[u]) / (limit || 1), x.y[u] < 0)])));
}

// --- one position ------------------------------------------------------------------------------

function positionView(s, m, i, j, state) {
  const x = values(s.n);
  const cell = Math.max(3, Math.floor(240 / Math.max(x.H, x.W)));
  const limit = largest(Array.from({ length: x.H * x.W }, (_, k) => x.y[k * x.C + m]));
  const chart = canvas(x.H, x.W, cell,
    `${what(s)} ${m} of ${s.name}; ${place(i, j)} is ${number(x.y[at(x, i, j, m)])}`,
    (a, b) => (a === i && b === j && x.H > 1 ? [0, 150, 60] : colour(x.y[at(x, a, b, m)], limit)));
  chart.addEventListener("click", (event) => {
    const box = chart.getBoundingClientRect();
    const a = Math.floor(((event.clientY - box.top) / box.height) * x.H);
    const b = Math.floor(((event.clientX - box.left) / box.width) * x.W);
    go(positionHash(s, m, a, b));
  });
  return [
    h("h2", {}, `${s.name}, ${what(s)} ${m}${isMaps(s) ? `, ${place(i, j)}` : ""}`),
    coordinates(s, m, i, j),
    h("div", { class: "row" },
      h("figure", {}, photo(240, fieldOf(s, i, j)), h("figcaption", {}, fieldWords(s, i, j))),
      isMaps(s) ? h("figure", {}, chart, h("figcaption", {}, `${what(s)} ${m}; the position is green`)) : null),
    explain(s, m, i, j, state),
    following(s, m, i, j),
    traced(s),
    code(s),
  ];
}

function coordinates(s, m, i, j) {
  const input = (name, value, most, f) => {
    const element = h("input", { id: `choose-${name}`, type: "number", min: 0, max: most, value, onchange: () =>
      f(Math.max(0, Math.min(most, Math.round(Number(element.value) || 0)))) });
    return h("label", {}, name, element);
  };
  const choice = h("select", { id: "choose-stage", onchange: () => {
    const t = byName.get(choice.value);
    go(positionHash(t, Math.min(m, t.C - 1), Math.min(i, t.H - 1), Math.min(j, t.W - 1)));
  } }, stages.map((t) => h("option", { value: t.name, selected: t === s }, t.name)));
  return h("form", { onsubmit: (event) => event.preventDefault() },
    h("label", {}, "stage", choice),
    input(what(s), m, s.C - 1, (v) => go(positionHash(s, v, i, j))),
    isMaps(s) ? input("row", i, s.H - 1, (v) => go(positionHash(s, m, v, j))) : null,
    isMaps(s) ? input("column", j, s.W - 1, (v) => go(positionHash(s, m, i, v))) : null,
    h("span", { class: "small" }, "Arrow keys move the position, Page Up and Page Down the map."));
}

const line = (name, value) => h("p", {}, `${name} `, h("span", { class: "number value" }, value));

function inputLink(s, t) {
  const text = `${place(t.h, t.w)}, ${t.c}`;
  if (s.n === 0) return text;
  return h("a", { href: positionHash(stages[s.n - 1], t.c, t.h, t.w) }, text);
}

function explain(s, m, i, j, state) {
  if (s.kind === "Conv") return explainSum(s, convolved(s, i, j, m), m, state);
  if (s.kind === "Dense") return explainSum(s, weighted(s, m), m, state);
  return h("div", { class: "panel" }, small(s, m, i, j));
}

function explainSum(s, found, m, state) {
  if (!found.products)
    return h("div", { class: "panel" }, notKept(s, m), line("the engine's value", number(found.engine, 7)),
      within(found.known));
  const sorted = [...found.products].sort((a, b) => Math.abs(b.product) - Math.abs(a.product));
  const shown = state.all ? sorted : sorted.slice(0, 24);
  const others = sorted.slice(shown.length).reduce((sum, t) => sum + t.product, 0) + (found.rest || 0);
  const left = sorted.length - shown.length + (found.others || 0);
  const rows = shown.map((t) => [inputLink(s, t), number(t.x), number(t.weight), number(t.product), bar(
    Math.abs(t.product) / Math.abs(sorted[0].product || 1), t.product < 0)]);
  if (left) rows.push([`${whole(left)} more`, "", "", number(others), ""]);
  rows.push(["bias", "", "", number(found.bias), ""]);
  rows.push(["sum", "", "", number(found.sum, 7), ""]);
  return h("div", { class: "panel" },
    table(`Products, the largest first: input times weight (${s.n ? `row, column, map of ${stages[s.n - 1].name}` : "row, column, colour of the prepared picture"})`,
      ["input", "x", "w", "x w", ""], rows),
    sorted.length > 24 ? h("button", { id: "products", type: "button", onclick: () => { state.all = !state.all; render(); } },
      state.all ? "the largest only" : `all ${whole(sorted.length)} products`) : null,
    line("sum and bias", number(found.sum, 7)),
    line("the engine's value", number(found.engine, 7)),
    h("p", {}, `They differ by ${number(Math.abs(found.sum - found.engine), 3)}, and can differ by up to` +
      ` ${number(found.bound, 3)}: the page holds ${s.kind === "Conv" ? "weights, inputs and outputs" : "inputs"}` +
      " in 16 bits, and the engine adds in float32."));
}

// How far the engine's number may be from the page's.
const within = (bound) => h("p", { class: "small" },
  bound ? `The engine's value is within ${number(bound, 2)} of it.` : "It is exactly the engine's value.");

// How a stage without weights computes the value at one position.
function small(s, m, i, j) {
  return [made(s, m, i, j), within(values(s.n).e[at(s, i, j, m)])];
}

function made(s, m, i, j) {
  const x = values(s.n - 1), y = values(s.n).y[at(s, i, j, m)];
  const own = () => x.y[at(x, i, j, m)];
  if (s.kind === "ReLU") return line(`${s.name}: max(0, ${number(own())}) =`, number(y));
  if (s.kind === "Tanh") return line(`${s.name}: tanh(${number(own())}) =`, number(y));
  if (s.kind === "Sigmoid") return line(`${s.name}: 1 / (1 + exp(${number(-own())})) =`, number(y));
  if (s.kind === "Dropout") {
    const factor = s.constants.inverted ? 1 : 1 - s.constants.p;
    return line(`${s.name}: in training each unit is dropped with probability ${s.constants.p}; in` +
      ` testing all are kept, and multiplied by ${factor}: ${factor} \u00b7 ${number(own())} =`, number(y));
  }
  if (s.kind === "Pool") {
    const found = pooled(s, x, i, j, m);
    const rows = found.window.map((t, n) => [inputLink(s, t), number(t.y), n === found.winner ? "wins" : ""]);
    const words = s.constants.mean ? "the mean of" : "the largest of";
    return [table(`${s.name}: ${words} the ${found.window.length} values of the window`,
      ["input", "x", ""], rows), line(`${s.name}:`, number(found.value))];
  }
  const found = normalised(s, x, i, j, m);
  const { n, k, beta } = s.constants;
  const rows = found.window.map((t) => [inputLink(s, t), number(t.y), number(t.y * t.y)]);
  const divisor = Math.round(s.constants.alpha / found.alpha);
  const alpha = divisor > 1 ? `alpha / ${divisor}` : "alpha";
  return [
    table(`${s.name}: the ${found.window.length} values of the window of ${n}`, ["input", "x", "x squared"], rows),
    line(`s = k + ${alpha} \u00b7 sum = ${number(k)} + ${number(found.alpha)} \u00b7 ${number(found.squares)} =`,
      number(found.scale)),
    line(`${s.name}: x s to the power \u2212${beta} = ${number(found.own)} \u00b7 ${number(found.scale ** -beta)} =`,
      number(found.value)),
  ];
}

// The stages that follow, up to the next one with weights, at the position that the output reaches.
function following(s, m, i, j) {
  const parts = [];
  for (let t = stages[s.n + 1]; t && !["Conv", "Dense"].includes(t.kind); t = stages[t.n + 1]) {
    if (t.kind === "Pool") {
      const { stride } = t.constants;
      [i, j] = [Math.min(t.H - 1, Math.floor(i / stride)), Math.min(t.W - 1, Math.floor(j / stride))];
    }
    const where = isMaps(t) ? `${t.name}, ${place(i, j)}` : `${t.name}, unit ${m}`;
    parts.push(h("h3", {}, h("a", { href: positionHash(t, m, i, j) }, where)));
    parts.push(small(t, m, i, j));
  }
  if (s.n === stages.length - 1) parts.push(softmaxTable(m));
  return parts.length ? h("div", { class: "panel" }, h("h3", {}, "The stages that follow"), parts) : null;
}

function softmaxTable(m) {
  const { y } = values(stages.length - 1), { p, bound } = softmax();
  const top = Math.max(...y), total = [...y].reduce((sum, v) => sum + Math.exp(v - top), 0);
  const order = [...new Set([m, ...best(5).map((b) => b.k)])];
  return [
    table("softmax: exp(logit \u2212 largest), divided by the sum of all", ["class", "logit", "exp", "probability"],
      order.map((k) => [className(k), number(y[k]), number(Math.exp(y[k] - top)), number(p[k], 6)])),
    line(`${className(m)}: ${number(Math.exp(y[m] - top))} / ${number(total)} =`, number(p[m], 6)),
    h("p", {}, `The engine's probability is within ${number(bound[m], 2)} of it.`),
  ];
}

function traced(s) {
  const trace = data.traces && data.traces[s.name];
  if (!trace) return s.n === 0 && data.absent.traces ? h("p", { class: "small" }, data.absent.traces) : null;
  return h("details", {},
    h("summary", {}, `Down to the thread: how ${trace.kernel} computed ${s.name} at ${trace.at}`),
    h("p", {}, trace.words),
    h("pre", { tabindex: 0 }, trace.lines.join("\n")));
}

// --- instruments -------------------------------------------------------------------------------

function chooser(view, names, chosen) {
  return h("nav", { "aria-label": "Stage" }, names.map((name) =>
    h("a", { href: `#${view}/${name}`, "aria-current": name === chosen ? "page" : null }, name)));
}

const absent = (why) => [h("p", {}, why || "This page was made without it.")];

function projectionView(name) {
  const names = Object.keys(data.projections || {});
  if (!names.length) return absent(data.absent.projections);
  const chosen = names.includes(name) ? name : names.at(-1);
  const s = byName.get(chosen);
  return [
    h("h2", {}, "What in the picture caused an activation"),
    h("p", {}, "The strongest activation of a map, sent back to the pixels. In pooling, the signal goes to the" +
      " maximum of each window; negative signals are set to zero; filters are transposed (Zeiler and Fergus," +
      " arXiv 1311.2901, section 2.1; the gradient and the guided form differ at the ReLUs). Grey is zero."),
    chooser("projection", names, chosen),
    photo(160),
    h("div", { class: "grid" }, data.projections[chosen].map((t) => h("figure", {},
      h("div", { class: "row" }, t.ways.map((way) => h("figure", {},
        h("img", { src: way.source, width: 128, alt: `map ${t.map} of ${chosen}, ${way.name}` }),
        h("figcaption", {}, `${way.name}, full colour at ${number(way.limit, 2)}`)))),
      h("figcaption", {}, h("a", { href: positionHash(s, t.map, ...t.at) },
        `map ${t.map}: ${number(t.value, 4)} at ${place(...t.at)}`))))),
  ];
}

function nineView(name) {
  const names = Object.keys(data.nine || {});
  if (!names.length) return absent(data.absent.nine);
  const chosen = names.includes(name) ? name : names.at(-1);
  const found = data.nine[chosen];
  return [
    h("h2", {}, "The nine strongest"),
    h("p", {}, `For each map of ${chosen}: the parts of ${whole(found.seen)} held-out pictures that excite it most,` +
      " at most one per picture, and beside them what caused the activation (Zeiler and Fergus, figure 2)." +
      " Grey is outside the picture, or zero."),
    chooser("nine", names, chosen),
    h("div", { class: "grid" }, found.maps.map((t) => h("figure", {},
      h("img", { src: t.source, alt: `map ${t.map}: patches, and their projections` }),
      h("figcaption", {}, `map ${t.map}: active in ${whole(t.active)} pictures, strongest ${number(t.value, 3)}`)))),
  ];
}

function heat(label, numbers, limit, paint) {
  const n = numbers.length;
  return h("figure", {}, canvas(n, n, Math.max(4, Math.floor(200 / n)), label, (i, j) => paint(numbers[i][j], limit)),
    h("figcaption", {}, label));
}

function occlusionView() {
  const o = data.occlusion;
  if (!o) return absent(data.absent.occlusion);
  const flat = o.probability.flat(), strength = o.strength.flat();
  const grey = (v, limit) => { const g = Math.round(255 * (limit ? v / limit : 0)); return [g, g, g]; };
  const counts = new Map();
  o.likeliest.flat().forEach((k) => counts.set(k, (counts.get(k) || 0) + 1));
  const labels = [...counts].sort((a, b) => b[1] - a[1]);
  return [
    h("h2", {}, "What the answer depends on"),
    h("p", {}, `A grey square of ${o.size} pixels covers one position after the other (Zeiler and Fergus,` +
      " section 4.2). Each cell stands for one position of the square."),
    h("div", { class: "row" }, photo(200),
      heat(`probability of ${className(o.label)}: ${percent(Math.min(...flat))} to ` +
        `${percent(Math.max(...flat))}; black is 0, white 100%`, o.probability, 1, grey),
      heat(`sum of map ${o.map} of ${o.stage}: white is 0, full red ${number(largest(strength), 3)}`,
        o.strength, largest(strength), colour)),
    table("The likeliest class when a square is covered", ["class", "squares"],
      labels.map(([k, n]) => [className(k), whole(n)])),
  ];
}

function evolutionView() {
  const e = data.evolution;
  if (!e) return absent(data.absent.evolution);
  return [
    h("h2", {}, `How maps of ${e.stage} developed`),
    h("p", {}, "A map's strongest activation among the held-out pictures, projected, after several epochs (Zeiler" +
      " and Fergus, section 4.1 and figure 4). It jumps when another picture becomes the strongest; a star" +
      " marks each jump."),
    e.maps.map((row) => h("div", {}, h("h3", {}, `map ${row.map}`), h("div", { class: "grid" },
      row.moments.map((t) => h("figure", {},
        t.source ? h("img", { src: t.source, width: 96, alt: `map ${row.map} after epoch ${t.epoch}` })
          : h("p", {}, "not active"),
        h("figcaption", {}, `epoch ${t.epoch}: picture ${t.picture}${t.jump ? " *" : ""}`)))))),
  ];
}

function neighboursView() {
  const n = data.neighbours;
  if (!n) return absent(data.absent.neighbours);
  const tile = (t, words) => h("figure", {}, h("img", { src: t.source, width: 96, alt: t.words }),
    h("figcaption", {}, words));
  return [
    h("h2", {}, `Pictures that are near each other in ${n.stage}`),
    h("p", {}, "Each row begins with a held-out picture, followed by the pictures whose features are nearest to" +
      " its own, by Euclidean distance (Krizhevsky et al., figure 4)."),
    n.rows.map((row) => h("div", { class: "grid" }, tile(row.query, row.query.words),
      row.nearest.map((t) => tile(t, `${t.words}: ${number(t.distance, 4)}`)))),
  ];
}

function ledgerView() {
  const keys = [["parameters", "parameters"], ["multiplyAdds", "multiply-adds"], ["bytesOut", "output bytes"],
    ["bytesKept", "kept for backward"]];
  const most = keys.map(([k]) => Math.max(...stages.map((s) => s[k])));
  const rows = stages.map((s) => [stageLink(s), shapeText(s), ...keys.flatMap(([k], n) =>
    [whole(s[k]), bar(s[k] / (most[n] || 1) / 2)])]);
  const sum = (k) => whole(stages.reduce((total, s) => total + s[k], 0));
  rows.push(["total", "", ...keys.flatMap(([k]) => [sum(k), ""])]);
  return [
    h("h2", {}, "What each stage costs, for one picture"),
    table("Parameters, arithmetic and memory", ["stage", "output", ...keys.flatMap(([, name]) => [name, ""])], rows),
  ];
}

function runView() {
  const { steps, epochs } = data.curves;
  const pairs = (rows, y) => rows.filter((r) => r[y] !== null).map((r) => [r.epoch, r[y]]);
  return [
    h("h2", {}, "The training"),
    table("The run", ["", ""], data.run, "words"),
    h("div", { class: "row" },
      curves("Loss", "epochs", [
        { name: "training batches", points: pairs(steps, "loss") },
        { name: "held-out pictures", points: pairs(epochs, "val_loss") },
      ].filter((l) => l.points.length)),
      curves("Top-1 accuracy", "epochs", [
        { name: "training batches", points: pairs(steps, "top1") },
        { name: "held-out pictures", points: pairs(epochs, "val_top1") },
      ].filter((l) => l.points.length))),
    data.predictions ? h("div", {}, h("h3", {}, "Predictions for held-out pictures"),
      h("div", { class: "grid" }, data.predictions.map((t) => h("figure", { class: "panel" },
        h("img", { src: t.source, width: 112, alt: t.truth }),
        h("figcaption", {}, t.truth, t.best.map((b) => [h("br"), `${percent(b.p)} ${b.name}`])))))) :
      h("p", {}, data.absent.predictions || ""),
  ];
}
