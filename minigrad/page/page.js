"use strict";

// The address says what is shown: #overview, #stage/conv1, #conv5/173/6,4, #nine/relu5, ...

const VIEWS = [
  ["overview", "Overview", overview],
  ["position", "Position", null],
  ["projection", "Projection", projectionView],
  ["nine", "Nine strongest", nineView],
  ["occlusion", "Occlusion", occlusionView],
  ["evolution", "Evolution", evolutionView],
  ["neighbours", "Neighbours", neighboursView],
  ["ledger", "Ledger", ledgerView],
  ["run", "Run", runView],
];
const states = new Map(); // what was chosen in a view: a map, a scale
let shown = null; // {s, m, i, j} in the view of a position

const go = (hash) => { location.hash = hash; };

function stateOf(key) {
  if (!states.has(key)) states.set(key, {});
  return states.get(key);
}

function decoded(hash) {
  try {
    return decodeURIComponent(hash.replace(/^#/, ""));
  } catch (error) {
    return ""; // an address that somebody mistyped
  }
}

function route(hash) {
  const [first, second, third] = decoded(hash).split("/");
  if (first === "stage" && byName.has(second)) {
    const s = byName.get(second);
    return { view: "stage", stage: s, parts: stageView(s, stateOf(second)) };
  }
  const named = byName.has(first) ? byName.get(first) : first === "position" ? firstStage() : null;
  if (named) {
    const limit = (v, most) => Math.max(0, Math.min(most, Math.round(Number(v) || 0)));
    const m = second === undefined ? strongestMap(named) : limit(second, named.C - 1);
    const [a, b] = (third || "").split(",");
    const top = third ? { i: limit(a, named.H - 1), j: limit(b, named.W - 1) } : peak(values(named.n), m);
    shown = { s: named, m, i: top.i, j: top.j };
    return { view: "position", stage: named, parts: positionView(named, m, top.i, top.j, stateOf("position")) };
  }
  const [name, , make] = VIEWS.find(([key]) => key === first) || VIEWS[0];
  return { view: name, stage: null, parts: make(second) };
}

const firstStage = () => stages.find((s) => s.kind === "Conv") || stages[0];

// Show the view that the address names. A control that was in use keeps the focus.
function render() {
  shown = null;
  const used = document.activeElement && document.activeElement.id;
  const { view, stage, parts } = route(location.hash);
  document.getElementById("views").replaceChildren(...VIEWS.map(([key, words]) =>
    h("a", { href: `#${key}`, "aria-current": key === view ? "page" : null }, words)));
  document.getElementById("stages").replaceChildren(...stages.map((s) =>
    h("a", { href: `#stage/${s.name}`, "aria-current": s === stage ? "true" : null }, s.name)));
  document.getElementById("main").replaceChildren(...parts.flat().filter((p) => p));
  document.title = `${parts.flat().find((p) => p && p.tagName === "H2")?.textContent || view} \u2013 ${data.title}`;
  const again = used && document.getElementById(used);
  if (again) again.focus({ preventScroll: true });
  return Boolean(again && again.id !== "main");
}

document.addEventListener("keydown", (event) => {
  if (!shown || event.ctrlKey || event.altKey || event.metaKey) return;
  if (["INPUT", "SELECT"].includes(event.target.tagName)) return;
  if (event.target.closest("pre, .scroll")) return; // these scroll with the arrow keys
  const { s, m, i, j } = shown;
  const moves = {
    ArrowUp: [m, i - 1, j], ArrowDown: [m, i + 1, j], ArrowLeft: [m, i, j - 1], ArrowRight: [m, i, j + 1],
    PageUp: [m - 1, i, j], PageDown: [m + 1, i, j],
  };
  const to = moves[event.key];
  if (!to) return;
  event.preventDefault();
  const [map, row, column] = to;
  if (map < 0 || map >= s.C || row < 0 || row >= s.H || column < 0 || column >= s.W) return;
  moved = true;
  go(positionHash(s, map, row, column));
});

let moved = false; // whether a key moved the position: the page then keeps its scroll position
window.addEventListener("hashchange", () => {
  const kept = render();
  if (!kept) document.getElementById("main").focus({ preventScroll: true });
  if (!kept && !moved) window.scrollTo(0, 0);
  moved = false;
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
document.getElementById("title").textContent = data.title;
document.getElementById("notice").textContent = data.notice;
render();
document.documentElement.dataset.ready = "yes";
