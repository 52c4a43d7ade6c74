// A model card's Markdown as elements: headings, paragraphs, lists, tables, code, emphasis, links.
// What it does not know stays visible as text; markup in the source never becomes markup here.

import { el } from "./dom.js";

const INLINE = /\\([\\`*_{}[\]<>|#+.!-])|`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\(([^)\s]+)\)/g;
const BLOCKS = [fencedCode, indentedCode, heading, table, list, paragraph];

/** Elements for the text; its headings go below those of the page. */
export function markdown(source) {
  const lines = source.replace(/^---\n[^]*?\n---\n/, "").split(/\r?\n/);
  const elements = [];
  while (lines.length) {
    if (!lines[0].trim()) { lines.shift(); continue; }
    for (const block of BLOCKS) {
      const made = block(lines);
      if (made) { elements.push(made); break; }
    }
  }
  return elements;
}

function takeWhile(lines, wanted) {
  const end = lines.findIndex((line) => !wanted(line));
  return lines.splice(0, end < 0 ? lines.length : end);
}

function fencedCode(lines) {
  const fence = /^(```+|~~~+)/.exec(lines[0])?.[1];
  if (!fence) return null;
  lines.shift();
  const inside = takeWhile(lines, (line) => !line.startsWith(fence));
  lines.shift();
  return preformatted(inside);
}

function indentedCode(lines) {
  if (!lines[0].startsWith("    ")) return null;
  const inside = takeWhile(lines, (line) => line.startsWith("    ") || !line.trim());
  return preformatted(inside.map((line) => line.slice(4)));
}

function preformatted(lines) {
  return el("pre", { tabindex: "0" }, el("code", {}, lines.join("\n").trimEnd()));
}

function heading(lines) {
  const found = /^(#{1,6})\s+(.*)$/.exec(lines[0]);
  if (!found) return null;
  lines.shift();
  return el(`h${Math.min(6, found[1].length + 2)}`, {}, ...inline(found[2]));
}

function table(lines) {
  if (!lines[0].includes("|") || !/^\s*\|?\s*:?-+:?\s*(\|\s*:?-*:?\s*)*$/.test(lines[1] ?? "") || !lines[1].includes("|")) return null;
  const [head, , ...body] = takeWhile(lines, (line) => line.includes("|"));
  const row = (line, tag) => el("tr", {}, ...cells(line).map((cell) => el(tag, {}, ...inline(cell))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of the model card" },
    el("table", {}, el("thead", {}, row(head, "th")), el("tbody", {}, ...body.map((line) => row(line, "td")))));
}

function cells(line) {
  const inner = line.trim().replace(/^\||\|$/g, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim());
}

function list(lines) {
  const item = /^\s*([-*+]|\d+[.)])\s+/;
  if (!item.test(lines[0])) return null;
  const ordered = /^\s*\d/.test(lines[0]);
  const taken = takeWhile(lines, (line) => item.test(line) || /^\s+\S/.test(line));
  const items = [];
  for (const line of taken) {
    if (item.test(line)) items.push(line.replace(item, ""));
    else items[items.length - 1] += ` ${line.trim()}`; // a line that goes on
  }
  return el(ordered ? "ol" : "ul", {}, ...items.map((text) => el("li", {}, ...inline(text))));
}

function paragraph(lines) {
  const first = lines.shift();
  const rest = takeWhile(lines, (line) => line.trim() && !/^(#{1,6}\s|```|~~~|\s*[-*+]\s)/.test(line) && !line.startsWith("|"));
  return el("p", {}, ...inline([first, ...rest].join(" ")));
}

function inline(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(INLINE)) {
    parts.push(text.slice(end, found.index), emphasis(found));
    end = found.index + found[0].length;
  }
  return [...parts, text.slice(end)];
}

function emphasis([all, escaped, mono, strong, soft, label, address]) {
  if (escaped) return escaped;
  if (mono) return el("code", {}, mono);
  if (strong) return el("strong", {}, strong);
  if (soft) return el("em", {}, soft);
  // Only the web: no scripts, no files.
  return /^https?:\/\//.test(address) ? el("a", { href: address, rel: "noreferrer" }, label) : all;
}
