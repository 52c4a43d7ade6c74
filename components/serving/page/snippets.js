// What repeats a table elsewhere: curl, the command line, Python.

import { generatePath, key } from "./api.js";
import { el } from "./dom.js";

/** Elements for a finished request: a heading, the code, and a button that copies it. */
export function snippets(model, request) {
  return texts(model, request, new URL(".", location.href).href).map(([name, text]) => {
    const copy = el("button", { type: "button", "aria-label": `Copy: ${name}`, onclick: () => copyText(text, copy) }, "Copy");
    return el("div", { class: "snippet" }, el("h3", {}, name), copy, el("pre", { tabindex: "0" }, el("code", {}, text)));
  });
}

/** [[name, text]] for the service at `base`. */
export function texts(model, request, base) {
  return [
    ["curl", curl(model, request, base)],
    ["Python", python(model, request, base)],
    ["Command line, with the model's folder", command(model, request)],
  ];
}

function curl(model, request, base) {
  const body = JSON.stringify({ ...onlyChanged(request), format: "csv" });
  return [
    `curl ${quoted(new URL(generatePath(model), base).href)}`,
    "-H 'Content-Type: application/json'",
    ...(key.get() ? ['-H "Authorization: Bearer $DIFFLM_KEY"'] : []),
    `-d ${quoted(body)}`,
    `-o ${quoted(`${model}.csv`)}`,
  ].join(" \\\n  ");
}

function command(model, request) {
  const { count, seed, temperature, top_p, conditions = {} } = onlyChanged(request);
  const options = [`-n ${count}`, `--seed ${seed}`];
  if (temperature !== undefined) options.push(`--temperature ${temperature}`);
  if (top_p !== undefined) options.push(`--top-p ${top_p}`);
  for (const [column, wanted] of Object.entries(conditions)) {
    options.push(`--where ${quoted(`${column}=${JSON.stringify(wanted)}`)}`);
  }
  return `difflm sample ${quoted(`${model}/`)} ${options.join(" ")} -o ${quoted(`${model}.parquet`)}`;
}

function python(model, request, base) {
  const { count, ...options } = onlyChanged(request);
  const named = Object.entries(options).map(([name, value]) => `, ${name}=${literal(value)}`).join("");
  return `from difflm_core.client import Client\n\nrows = Client(${literal(base.replace(/\/$/, ""))}).sample(${literal(model)}, ${count}${named})`;
}

function onlyChanged({ count, seed, temperature, top_p, conditions }) {
  return {
    count, seed,
    ...(temperature !== 1 && { temperature }),
    ...(top_p !== 1 && { top_p }),
    ...(Object.keys(conditions).length && { conditions }),
  };
}

/** A value as Python writes it; strings of JSON are strings of Python. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}`;
}

/** A word of a shell; plain ones stay bare. */
function quoted(text) {
  return /^[\w./:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select and copy it"; // no permission, or not a secure address
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}
