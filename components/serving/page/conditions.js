// "Fix values": one editor for each chosen column, and what they say as `conditions` of a request.

import { el, show } from "./dom.js";

const FILTER_FROM = 12; // categories; more than these are searched rather than read
const INPUT_TYPES = { integer: "number", float: "number", date: "date", time: "time", datetime: "datetime-local" };

export class Conditions {
  /** @param parts elements: list, add (the row that adds), select, button, area */
  constructor(parts, onChange) {
    this.parts = parts;
    this.onChange = onChange;
    this.editors = new Map();
    parts.button.addEventListener("click", () => this.add(parts.select.value, true));
  }

  /** Starts anew with the columns of a model. */
  setColumns(columns) {
    this.columns = columns.filter((column) => column.conditional);
    this.editors.clear();
    this.parts.list.replaceChildren();
    show(this.parts.area, this.columns.length > 0);
    this.offer();
  }

  add(name, focus = false) {
    const column = this.columns.find((each) => each.name === name);
    if (!column || this.editors.has(name)) return null;
    const editor = choosable(column) ? choices(column) : bounds(column);
    const element = this.frame(column, editor);
    this.editors.set(name, { ...editor, element });
    this.parts.list.append(element);
    element.addEventListener("input", this.onChange);
    this.offer();
    if (focus) element.querySelector("input").focus();
    return editor;
  }

  remove(name) {
    this.editors.get(name).element.remove();
    this.editors.delete(name);
    this.offer();
    this.parts.select.focus();
    this.onChange();
  }

  /** `conditions` of a request; an editor that says nothing adds nothing. */
  read() {
    const said = [...this.editors].map(([name, editor]) => [name, editor.read()]);
    return Object.fromEntries(said.filter(([, value]) => value !== null));
  }

  write(conditions) {
    for (const [name, value] of Object.entries(conditions)) this.add(name)?.write(value);
  }

  /** Shows what is wrong with a column's condition; gives the input to go to, or null. */
  complain(path, message) {
    const name = [...this.editors.keys()].find((each) => path === each || path.startsWith(`${each}.`));
    if (name === undefined) return null;
    const { element } = this.editors.get(name);
    const problem = element.querySelector(".problem");
    problem.textContent = message;
    const input = element.querySelector("input:not([type=search])");
    input.setAttribute("aria-describedby", problem.id);
    input.setAttribute("aria-invalid", "true");
    return input;
  }

  clearProblems() {
    for (const { element } of this.editors.values()) {
      element.querySelector(".problem").textContent = "";
      element.querySelectorAll("[aria-invalid]").forEach((input) => input.removeAttribute("aria-invalid"));
    }
  }

  offer() {
    const free = this.columns.filter((column) => !this.editors.has(column.name));
    this.parts.select.replaceChildren(...free.map((column) => el("option", { value: column.name }, column.name)));
    show(this.parts.add, free.length > 0);
  }

  frame(column, editor) {
    const remove = el("button", { type: "button", class: "quiet", "aria-label": `Remove ${column.name}`, onclick: () => this.remove(column.name) }, "Remove");
    return el("fieldset", { class: "condition", "data-column": column.name },
      el("legend", {}, column.name), remove, ...editor.nodes,
      el("p", { class: "problem", id: `condition-problem-${this.columns.indexOf(column)}` }));
  }
}

const choosable = (column) => column.kind === "boolean" || (column.categories !== null && !(column.kind in INPUT_TYPES));

/** One or several categories. */
function choices(column) {
  const values = column.categories ?? [false, true];
  const boxes = values.map(() => el("input", { type: "checkbox" }));
  const labels = values.map((value, index) => el("label", { class: "choice" }, boxes[index], el("span", {}, String(value))));
  const list = el("div", { class: "choices" }, ...labels);
  const nodes = values.length > FILTER_FROM ? [filter(column, labels), list] : [list];
  const read = () => {
    const chosen = values.filter((_, index) => boxes[index].checked);
    return chosen.length > 1 ? chosen : chosen[0] ?? null;
  };
  const write = (value) => {
    const wanted = [value].flat();
    boxes.forEach((box, index) => { box.checked = wanted.includes(values[index]); });
  };
  return { nodes, read, write };
}

function filter(column, labels) {
  const input = el("input", { type: "search", placeholder: "Search", "aria-label": `Search the ${labels.length} values of ${column.name}` });
  input.addEventListener("input", () => {
    const part = input.value.toLowerCase();
    for (const label of labels) {
      // What is chosen stays in sight.
      label.hidden = !label.textContent.toLowerCase().includes(part) && !label.firstChild.checked;
    }
  });
  return input;
}

/** Numbers, dates or times between two bounds, either of which may be left open. */
function bounds(column) {
  const type = INPUT_TYPES[column.kind] ?? "text";
  const step = { integer: "1", float: "any", datetime: "1", time: "1" }[column.kind] ?? null;
  const input = (side, bound) => el("input", { type, step, min: shown(type, column.minimum), max: shown(type, column.maximum),
    placeholder: type === "number" && bound !== null ? bound : null, "data-side": side });
  const low = input("min", column.minimum), high = input("max", column.maximum);
  const nodes = [el("div", { class: type === "datetime-local" ? "pair stacked" : "pair" },
    el("label", {}, "From ", low), el("label", {}, "To ", high))];
  const value = (each) => (each.value === "" ? null : type === "number" ? Number(each.value) : each.value);
  const read = () => {
    const [min, max] = [value(low), value(high)];
    if (min === null && max === null) return null;
    return { ...(min !== null && { min }), ...(max !== null && { max }) };
  };
  const write = (range) => {
    low.value = shown(type, range?.min) ?? "";
    high.value = shown(type, range?.max) ?? "";
  };
  return { nodes, read, write };
}

// A datetime input takes neither fractions nor zones.
function shown(type, bound) {
  if (bound === null || bound === undefined) return null;
  return type === "datetime-local" ? String(bound).replace(" ", "T").slice(0, 19) : bound;
}
