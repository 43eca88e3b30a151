"use strict";

// Elements, numbers as text, and pictures drawn from numbers.

// Make an element. Children are elements or text; attributes are set as such, never as HTML.
function h(tag, attributes, ...children) {
  const spaces = { svg: 1, rect: 1, polyline: 1, circle: 1, text: 1, line: 1 };
  const element = spaces[tag]
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(2).filter((c) => c !== null && c !== undefined));
  return element;
}

// A number as people write it: with a minus sign, and without meaningless digits.
function number(v, digits = 5) {
  if (v === 0) return "0";
  const size = Math.abs(v);
  const text = size >= 1e-4 && size < 1e6 ? v.toPrecision(digits) : v.toExponential(digits - 1);
  return text.replace("e+", "e").replaceAll("-", "\u2212");
}
const whole = (v) => v.toLocaleString("en").replace("-", "\u2212");
const percent = (p) => (p >= 0.0005 || p === 0 ? `${(100 * p).toFixed(1)}%` : `${number(100 * p, 2)}%`);
const minus = (text) => text.replaceAll(" - ", " \u2212 ").replace(/(^|e|\()-/g, "$1\u2212");
const place = (i, j) => `row ${i}, column ${j}`;

// A signed number as a colour: blue below zero, white at zero, red above; full at `limit`.
function colour(v, limit) {
  const share = Math.max(-1, Math.min(1, limit ? v / limit : 0));
  const [r, g, b] = share < 0 ? [33, 102, 172] : [178, 24, 43];
  const mix = (to) => Math.round(255 + Math.abs(share) * (to - 255));
  return [mix(r), mix(g), mix(b)];
}

function largest(numbers) {
  let size = 0;
  for (const v of numbers) size = Math.max(size, Math.abs(v));
  return size;
}

// A canvas of H x W cells, `cell` pixels each; paint(i, j) returns [r, g, b], and `label` says what
// the canvas shows.
function canvas(H, W, cell, label, paint) {
  const image = new ImageData(W, H);
  for (let i = 0, k = 0; i < H; i++)
    for (let j = 0; j < W; j++, k += 4) {
      const [r, g, b] = paint(i, j);
      image.data[k] = r; image.data[k + 1] = g; image.data[k + 2] = b; image.data[k + 3] = 255;
    }
  const element = h("canvas", { width: W, height: H, role: "img", "aria-label": label });
  element.getContext("2d").putImageData(image, 0, 0);
  element.style.width = `${W * cell}px`;
  return element;
}

// A map of values as a canvas.
function mapCanvas(x, m, limit, side, label) {
  const cell = Math.max(1, Math.floor(side / Math.max(x.H, x.W)));
  return canvas(x.H, x.W, cell, label, (i, j) => colour(x.y[at(x, i, j, m)], limit));
}

// {value, i, j} of the largest value of a map.
function peak(x, m) {
  let best = { value: -Infinity, i: 0, j: 0 };
  for (let i = 0; i < x.H; i++)
    for (let j = 0; j < x.W; j++) {
      const value = x.y[at(x, i, j, m)];
      if (value > best.value) best = { value, i, j };
    }
  return best;
}

// The colour scale, with the values of its colours.
function scale(limit) {
  const bar = canvas(1, 64, 3, "colours from the least to the largest value", (i, j) =>
    colour(j / 31.5 - 1, 1));
  bar.style.height = "12px";
  return h("figure", {}, bar,
    h("figcaption", {}, `${number(-limit, 3)} blue, 0 white, ${number(limit, 3)} red`));
}

// The picture that the network saw, with these squares marked: [top, left, bottom, right].
function photo(width, ...squares) {
  if (!data.picture.source) return h("p", {}, "(no picture)");
  const side = data.input.numbers.shape[0];
  const image = h("img", { src: data.picture.source, alt: data.picture.words, width });
  const box = h("div", { class: "photo" }, image);
  for (const [top, left, bottom, right] of squares) {
    const seen = h("div", { class: "seen" });
    const clip = (v) => `${(100 * Math.max(0, Math.min(side, v))) / side}%`;
    const part = (a, b) =>
      `${(100 * (Math.min(side, b) - Math.max(0, a))) / side}%`;
    Object.assign(seen.style, {
      top: clip(top), left: clip(left), height: part(top, bottom), width: part(left, right),
    });
    box.append(seen);
  }
  return box;
}

// The square of input pixels that an output sees.
function fieldOf(s, i, j) {
  if (s.shape.length < 3) return [0, 0, data.input.numbers.shape[0], data.input.numbers.shape[1]];
  const top = s.start + i * s.jump, left = s.start + j * s.jump;
  return [top, left, top + s.field, left + s.field];
}

// The same square in words.
function fieldWords(s, i, j) {
  const side = data.input.numbers.shape[0];
  const [top, left, bottom, right] = fieldOf(s, i, j);
  const part = (a, b) => `${Math.max(0, a)} to ${Math.min(side, b) - 1}`;
  return `what this output sees: rows ${part(top, bottom)}, columns ${part(left, right)}`;
}

// A table: column heads, and rows of text, formatted numbers or elements. The first cell of a row
// is its name. kind "words": cells are aligned left.
function table(caption, heads, rows, kind = "numbers") {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", { class: kind }, h("caption", {}, caption),
      heads.some((t) => t)
        ? h("thead", {}, h("tr", {}, heads.map((t) => (t ? h("th", { scope: "col" }, t) : h("td", {})))))
        : null,
      h("tbody", {}, rows.map((cells) =>
        h("tr", {}, cells.map((c, n) => (n ? h("td", {}, c) : h("th", { scope: "row" }, c))))))));
}

function bar(share, second) {
  const element = h("span", { class: second ? "bar second" : "bar" });
  element.style.width = `${Math.max(0, Math.min(1, share)) * 12}rem`;
  return element;
}

// Curves as lines: [{name, points: [[x, y], ...]}], the second in another colour.
function curves(label, xName, lines) {
  const W = 560, H = 220, left = 48, bottom = 30;
  const points = lines.flatMap((l) => l.points);
  if (!points.length) return h("p", {}, `${label}: no values were written.`);
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const x0 = Math.min(...xs), x1 = Math.max(...xs), y1 = Math.max(...ys), y0 = Math.min(0, ...ys);
  const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (W - left - 10);
  const py = (y) => H - bottom - ((y - y0) / (y1 - y0 || 1)) * (H - bottom - 12);
  const said = lines.map((l) =>
    `${l.name} from ${number(l.points[0][1], 3)} to ${number(l.points.at(-1)[1], 3)}`);
  return h("figure", {},
    h("svg", { viewBox: `0 0 ${W} ${H}`, width: W, role: "img", "aria-label": `${label}: ${said.join("; ")}` },
      h("line", { class: "axis", x1: left, y1: H - bottom, x2: W - 10, y2: H - bottom }),
      h("line", { class: "axis", x1: left, y1: 12, x2: left, y2: H - bottom }),
      h("text", { x: 4, y: 16 }, number(y1, 3)),
      h("text", { x: 4, y: H - bottom }, number(y0, 3)),
      h("text", { x: left, y: H - 10 }, number(x0, 3)),
      h("text", { x: W - 150, y: H - 10 }, `${number(x1, 4)} ${xName}`),
      lines.map((l, n) => h("polyline", {
        class: n ? "second" : "first", "stroke-width": 1.5,
        points: l.points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" "),
      })),
      lines.map((l, n) => (l.points.length > 60 ? [] : l.points.map(([x, y]) => h("circle", {
        class: n ? "second" : "first", cx: px(x).toFixed(1), cy: py(y).toFixed(1), r: 2.5,
      }))))),
    h("figcaption", {}, `${label}. ${lines.map((l, n) => `${n ? "Red" : "Blue"}: ${l.name}`).join(". ")}.`));
}
