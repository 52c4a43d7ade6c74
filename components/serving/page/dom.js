// Building the page. Data only ever becomes text or an attribute, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element. `on...` properties are listeners, `null` and `false` leave an attribute out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Shows or hides; an element that held the focus hands it to `heir`. */
export function show(element, visible, heir = null) {
  const focused = element.contains(document.activeElement);
  element.hidden = !visible;
  if (!visible && focused && heir) heir.focus();
}

const WHOLE = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

export const whole = (number) => WHOLE.format(number);
export const short = (number) => (Math.abs(number) < 1e4 ? String(+number.toPrecision(4)) : SHORT.format(number));
export const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
export const rowsOf = (count) => `${whole(count)} ${count === 1 ? "row" : "rows"}`;

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, count)) / 3));
  return `${+(count / 1000 ** power).toPrecision(3)} ${units[power]}`;
}
