// What a model is: its columns, its quality, its card.

import { byId, el, show, whole } from "./dom.js";
import { markdown } from "./markdown.js";

// As the report says them.
const WORDS = { good: "Good", fair: "Usable with care", bad: "Not good enough", unknown: "Not measured" };
const NUM_NAMED = 6; // categories that are named at once

export function showModel(details) {
  document.title = `${details.id} · DiffLM-on-Ray`;
  byId("title").textContent = `New rows of ${details.id}`;
  byId("meta").replaceChildren(...facts(details));
  byId("quality-body").replaceChildren(...quality(details.quality));
  byId("columns-scroll").replaceChildren(columnTable(details.columns));
  byId("card-body").replaceChildren(...markdown(details.card));
  show(byId("quality"), true);
  show(byId("columns"), true);
  show(byId("card"), details.card.trim() !== "");
}

function facts({ num_columns, num_training_rows, target, version }) {
  const bold = (text) => el("b", {}, text);
  const parts = [[bold(whole(num_columns)), num_columns === 1 ? " column" : " columns"]];
  if (num_training_rows !== null) parts.push(["learned from ", bold(whole(num_training_rows)), " rows"]);
  if (target !== null) parts.push(["target ", bold(target)]);
  parts.push(["version ", el("span", { class: "mono" }, version)]);
  return parts.flatMap((part, index) => (index ? [" · ", ...part] : part));
}

function quality(found) {
  if (!found) return [el("p", { class: "none" }, "No evaluation came with this model.")];
  return [
    el("p", { class: `lead ${found.light}` }, el("span", { class: "dot", "aria-hidden": "true" }), el("span", {}, found.headline)),
    el("div", { class: "cards" }, ...found.findings.map(finding)),
  ];
}

function finding({ title, value, light, sentence }) {
  return el("article", { class: `card ${light}` },
    el("h3", {}, title),
    el("p", { class: "value" }, value),
    el("p", { class: "light" }, el("span", { class: "dot", "aria-hidden": "true" }), WORDS[light]),
    el("p", {}, sentence.replaceAll(" %", "\u00a0%")));
}

function columnTable(columns) {
  const heads = ["Name", "Kind", "Values", "May be missing"].map((name) => el("th", { scope: "col" }, name));
  return el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...columns.map(columnLine)));
}

function columnLine(column) {
  const tag = column.is_target ? el("span", { class: "tag" }, "target") : null;
  return el("tr", {},
    el("th", { scope: "row", class: "name" }, column.name, " ", tag),
    el("td", {}, column.kind),
    el("td", { class: "values" }, ...values(column)),
    el("td", {}, column.nullable ? "yes" : "no"));
}

function values({ categories, minimum, maximum }) {
  if (categories === null) {
    if (minimum === null && maximum === null) return ["–"];
    return [`${minimum ?? "…"} to ${maximum ?? "…"}`];
  }
  const named = categories.slice(0, NUM_NAMED).join(", ");
  if (categories.length <= NUM_NAMED + 1) return [categories.join(", ")];
  const rest = categories.slice(NUM_NAMED);
  return [named, el("details", {}, el("summary", {}, `and ${whole(rest.length)} more`), rest.join(", "))];
}
