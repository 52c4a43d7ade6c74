// The table of generated rows: some are drawn, more on request, and most are only counted.

import { byId, el, rowsOf, show, whole } from "./dom.js";

const PAGE = 200;
export const MAX_KEPT = 20_000; // rows in the browser's memory

export class RowTable {
  constructor() {
    byId("rows-more").addEventListener("click", () => this.showMore());
  }

  /** An empty table for the columns of a model. */
  clear(columns) {
    this.columns = columns;
    this.kept = [];
    this.numSeen = 0;
    this.numWanted = PAGE;
    this.body = el("tbody");
    const heads = columns.map((column) => el("th", { scope: "col", class: isNumber(column) && "n" }, column.name));
    const head = el("tr", {}, el("th", { scope: "col", class: "index" }, "#"), ...heads);
    byId("rows-scroll").replaceChildren(el("table", {}, el("thead", {}, head), this.body));
    byId("rows-scroll").scrollTo(0, 0);
    this.draw();
  }

  add(batch) {
    this.numSeen += batch.length;
    // One by one: a spread of a large array overflows the stack.
    for (const row of batch) {
      if (this.kept.length === MAX_KEPT) break;
      this.kept.push(row);
    }
  }

  /** Brings the page up to date with what was added. */
  draw() {
    const until = Math.min(this.numWanted, this.kept.length);
    const lines = [];
    for (let index = this.body.rows.length; index < until; index++) lines.push(this.line(index));
    this.body.append(...lines);
    byId("rows-shown").textContent = this.says(until);
    const more = Math.min(PAGE, this.kept.length - until);
    show(byId("rows-more"), more > 0, byId("rows-scroll"));
    byId("rows-more").textContent = `Show ${whole(more)} more`;
  }

  showMore() {
    this.numWanted += PAGE;
    this.draw();
  }

  says(shown) {
    const text = shown < this.numSeen ? `${whole(shown)} of ${rowsOf(this.numSeen)} shown.` : "";
    if (this.numSeen <= MAX_KEPT) return text;
    return `${text} The first ${whole(MAX_KEPT)} are kept in this page; the charts count all of them, and a download has them all.`;
  }

  line(index) {
    const row = this.kept[index];
    const cells = this.columns.map((column) => cell(row[column.name], column));
    return el("tr", {}, el("td", { class: "index" }, whole(index + 1)), ...cells);
  }
}

const isNumber = (column) => column.kind === "integer" || column.kind === "float";

function cell(value, column) {
  if (value === null || value === undefined) {
    return el("td", { class: isNumber(column) ? "missing n" : "missing" },
      el("span", { "aria-hidden": "true" }, "–"), el("span", { class: "hidden" }, "missing"));
  }
  const text = String(value);
  return el("td", { class: isNumber(column) && "n", title: text.length > 40 && text }, text);
}
