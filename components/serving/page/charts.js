// Training against synthetic, as SVG that takes its colours from page.css; as the report draws it.
// A chart is built once and then only moved: it follows rows while they stream.

import { el, percent, short, svg } from "./dom.js";

const WIDTH = 280;

/** The figure of a column: `element`, `update()` after counting, `describe()` at rest. */
export function chartOf(tally) {
  const drawing = tally.bounds ? steps(tally) : bars(tally);
  const caption = el("span");
  const summary = el("div", { class: "hidden" });
  const element = el("figure", { "data-column": tally.name },
    el("figcaption", {}, el("b", {}, tally.name), caption), drawing.element, summary);

  const update = () => {
    drawing.update();
    caption.textContent = missingText(tally);
  };
  const describe = () => summary.replaceChildren(table(tally));
  update();
  describe();
  return { element, update, describe };
}

function missingText(tally) {
  const { trainingMissing: training, syntheticMissing: synthetic, total } = tally;
  if (!training && !synthetic) return "";
  return total ? `missing ${percent(training)} → ${percent(synthetic)}` : `missing ${percent(training)}`;
}

function frame(tally, height, ...children) {
  const label = `${tally.name}: training and synthetic distribution`;
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label },
    svg("title", {}, label), ...children);
}

function highest(tally) {
  const shares = tally.groups.map((group, index) => Math.max(group.training, tally.share(index)));
  return Math.max(...shares, 1e-12);
}

function bars(tally) {
  const row = 17, left = 112, room = WIDTH - left - 46;
  const lines = tally.groups.map((group, index) => {
    const y = 2 + index * row;
    const name = String(group.label);
    const training = svg("rect", { class: "real area", x: left, y: y + 1.5, height: 6 });
    const synthetic = svg("rect", { class: "made area", x: left, y: y + 8, height: 6 });
    const label = svg("text", { class: "text", x: left - 6, y: y + 11.5, "text-anchor": "end" },
      shorten(name, 17), svg("title", {}, name));
    const value = svg("text", { class: "text", x: WIDTH - 2, y: y + 11.5, "text-anchor": "end" }, percent(group.training));
    return { training, synthetic, nodes: [label, training, synthetic, value] };
  });
  const element = frame(tally, row * lines.length + 4, ...lines.flatMap((line) => line.nodes));
  const update = () => {
    const top = highest(tally);
    lines.forEach((line, index) => {
      line.training.setAttribute("width", width(tally.groups[index].training, top, room));
      line.synthetic.setAttribute("width", tally.total ? width(tally.share(index), top, room) : 0);
    });
  };
  return { element, update };
}

// Half a pixel stays where a share is small, so that rare is not taken for absent.
const width = (share, top, room) => (share ? Math.max(0.5, (share / top) * room) : 0).toFixed(1);

function steps(tally) {
  const height = 130, floor = height - 18;
  const training = svg("path", { class: "real area" });
  const synthetic = svg("path", { class: "made line" });
  const axis = svg("line", { class: "axis", x1: 4, x2: WIDTH - 4, y1: floor, y2: floor });
  const element = frame(tally, height, training, synthetic, axis, ...ticks(tally, height));
  const xs = places(tally.bounds);
  const update = () => {
    const top = highest(tally);
    const path = (shares) => outline(xs, shares.map((share) => floor - (share / top) * (floor - 6)), floor);
    training.setAttribute("d", `${path(tally.groups.map((group) => group.training))}Z`);
    synthetic.setAttribute("d", tally.total ? path(tally.groups.map((_, index) => tally.share(index))) : "");
  };
  return { element, update };
}

function places(bounds) {
  const first = bounds[0], span = bounds.at(-1) - first || 1;
  return bounds.map((bound) => (4 + ((bound - first) / span) * (WIDTH - 8)).toFixed(1));
}

function outline(xs, ys, floor) {
  return `M${xs[0]} ${floor}${ys.map((y, index) => `V${y.toFixed(1)}H${xs[index + 1]}`).join("")}V${floor}`;
}

function ticks(tally, height) {
  const first = tally.bounds[0], last = tally.bounds.at(-1);
  const name = axisLabels(tally);
  return [[4, "start", first], [WIDTH / 2, "middle", (first + last) / 2], [WIDTH - 4, "end", last]].map(
    ([x, anchor, value]) => svg("text", { class: "text", x, y: height - 5, "text-anchor": anchor }, name(value)),
  );
}

function axisLabels({ edges, bounds }) {
  if (typeof edges[0] === "number") return short;
  if (/^\d{1,2}:/.test(edges[0])) return (value) => new Date(value).toISOString().slice(11, 16);
  const withinDays = bounds.at(-1) - bounds[0] < 3 * 864e5;
  return (value) => new Date(value).toISOString().slice(withinDays ? 5 : 0, withinDays ? 16 : 10).replace("T", " ");
}

/** The figures of a chart for those who do not see it. */
function table(tally) {
  const line = (label, training, synthetic) => el("tr", {}, el("th", { scope: "row" }, label),
    el("td", {}, percent(training)), el("td", {}, tally.total ? percent(synthetic) : "–"));
  const heads = ["Value", "Training", "Synthetic"].map((name) => el("th", { scope: "col" }, name));
  return el("table", {}, el("caption", {}, `${tally.name}: shares of the values, training and synthetic`),
    el("thead", {}, el("tr", {}, ...heads)),
    el("tbody", {}, ...tally.groups.map((group, index) => line(String(group.label), group.training, tally.share(index))),
      line("missing, of all rows", tally.trainingMissing, tally.syntheticMissing)));
}

function shorten(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}
