// The view as the part of the address after "#", so that a link repeats it. It fills the form and
// starts nothing: opening a link must not cost the service a table.

const NUMBERS = ["count", "seed", "temperature", "top_p"];
const DEFAULTS = { temperature: 1, top_p: 1 };

/** {model, count, seed, temperature, top_p, conditions}, as far as the address says them. */
export function readLink() {
  const said = new URLSearchParams(location.hash.slice(1));
  const view = {};
  if (said.has("model")) view.model = said.get("model");
  for (const name of NUMBERS) {
    const value = Number(said.get(name));
    if (said.get(name) && Number.isFinite(value)) view[name] = value;
  }
  view.conditions = readConditions(said.get("conditions"));
  return view;
}

// Somebody may have cut the address when copying it.
function readConditions(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}

/** Writes the view without a step in the browser's history. */
export function writeLink({ model, conditions, ...values }) {
  const said = new URLSearchParams({ model });
  for (const name of NUMBERS) {
    const value = values[name];
    if (Number.isFinite(value) && value !== DEFAULTS[name]) said.set(name, value);
  }
  if (Object.keys(conditions).length) said.set("conditions", JSON.stringify(conditions));
  history.replaceState(null, "", `#${said}`);
}
