// The page: loads a model, generates its rows, and shows both. The parts know nothing of each other.

import * as api from "./api.js";
import { Distributions } from "./distributions.js";
import { byId, el, rowsOf, show, whole } from "./dom.js";
import { GenerateForm } from "./form.js";
import { JobList } from "./jobs.js";
import { setUpKey } from "./key.js";
import { readLink, writeLink } from "./link.js";
import { showModel } from "./model.js";
import { RowTable } from "./rows.js";
import { snippets } from "./snippets.js";
import { clearTrouble, showProblem, showTrouble } from "./trouble.js";

const DRAW_MS = 150; // between two drawings while rows stream
const FORMATS = { csv: ["CSV", "csv"], parquet: ["Parquet", "parquet"], ndjson: ["NDJSON", "ndjson"], arrow: ["Arrow", "arrows"] };

const table = new RowTable();
const distributions = new Distributions();
const jobs = new JobList(report);
const form = new GenerateForm({ onSubmit: submit, onModel: openModel, onChange: remember });

let limits = null;
let model = null; // what the form is for
let running = null; // AbortController of the rows that stream
let shown = null; // {model, version, request}: the rows in the table, and what repeats them

function report(error, options) {
  if (error.name === "AbortError") return;
  if (showProblem(error, options)) return;
  showTrouble("Something in this page went wrong; reload it, please.");
  throw error;
}

async function start() {
  clearTrouble();
  try {
    limits = await api.limits();
    const models = await api.models();
    form.setModels(models);
    form.setLimits(limits);
    if (!models.length) { byId("meta").textContent = "The service has no models."; return; }
    const { model: wanted } = readLink();
    await openModel((models.find(({ id }) => id === wanted) ?? models[0]).id);
    if (limits.job_formats.length) await jobs.load();
    showSections();
  } catch (error) {
    if (!model) byId("meta").textContent = "Not loaded.";
    report(error, { again: start });
  }
}

async function openModel(id) {
  running?.abort();
  clearTrouble();
  try {
    const [details, columns] = await Promise.all([api.model(id), api.distributions(id)]);
    model = details;
    showModel(details);
    form.setModel(details);
    distributions.setColumns(columns);
    forgetRows();
    const view = readLink();
    if (view.model === undefined || view.model === id) form.write(view);
    show(byId("form"), true);
    remember();
    showSections();
  } catch (error) {
    // The list goes back to the model that is still shown.
    if (model) byId("model").value = model.id;
    report(error, { again: () => openModel(id), context: error.status === 403 ? `No access to ${id}. ` : "" });
  }
}

function forgetRows() {
  shown = null;
  show(byId("rows"), false);
  byId("status").textContent = "";
  // Without rows of its own, quality says more of a model than its training data.
  byId("quality").after(byId("distributions"));
}

function remember() {
  if (model) writeLink({ model: model.id, ...form.read() });
}

function submit() {
  if (running) return;
  clearTrouble();
  if (form.isJob) startJob(); else generate(form.read());
}

async function startJob() {
  try {
    await jobs.start({ model: model.id, ...form.read(), format: form.jobFormat });
    showSections();
  } catch (error) {
    reportRequest(error, startJob);
  }
}

/** What is wrong with the request goes beside its inputs, the rest into the alert. */
function reportRequest(error, again) {
  const unplaced = error.errors?.length ? form.showProblems(error.errors) : [];
  report(error, { again, context: error.status === 403 ? `No access to ${model.id}. ` : "" });
  if (unplaced.length) byId("alert").textContent += ` ${unplaced.map(({ field, message }) => `${field}: ${message}`).join(" ")}`;
}

async function generate(values) {
  const { id, columns } = model;
  const control = running = new AbortController();
  const received = { count: 0, wanted: values.count, since: performance.now() };
  showRunning(received);
  try {
    const stream = await api.generate(id, values, control.signal);
    if (running !== control) return;
    shown = { model: id, version: stream.version, request: { ...values, seed: stream.seed } };
    openRows(columns);
    await receive(stream.batches, received);
    if (received.count < received.wanted) throw new api.BrokenStream();
    finish(received, "");
  } catch (error) {
    if (running !== control) return; // another model was opened meanwhile
    if (received.count) finish(received, error.name === "AbortError" ? "cancelled" : "broken off");
    else byId("status").textContent = error.name === "AbortError" ? "Cancelled." : "";
    reportGeneration(error, values, received);
  } finally {
    if (running === control) {
      running = null;
      hideRunning();
    }
  }
}

function reportGeneration(error, values, received) {
  if (!(error instanceof api.BrokenStream)) { reportRequest(error, () => generate(values)); return; }
  const again = () => generate({ ...values, seed: shown?.request.seed ?? values.seed });
  const kept = received.count ? ` They are kept here; the same seed makes them all.` : "";
  showTrouble(`The connection broke after ${whole(received.count)} of ${rowsOf(received.wanted)}.${kept}`, { again });
}

async function receive(batches, received) {
  let drawn = 0;
  for await (const batch of batches) {
    table.add(batch);
    distributions.add(batch);
    received.count += batch.length;
    if (performance.now() - drawn < DRAW_MS) continue;
    drawRows(received);
    drawn = performance.now();
  }
}

function drawRows(received) {
  table.draw();
  distributions.draw();
  const { count, wanted, since } = received;
  byId("progress").value = count;
  const rate = (1000 * count) / (performance.now() - since);
  byId("progress-text").textContent = `${whole(count)} of ${rowsOf(wanted)} · ${whole(Math.round(rate))} rows/s`;
}

function showRunning({ wanted }) {
  byId("progress").max = wanted;
  byId("progress").removeAttribute("value"); // under way, nothing to count yet
  byId("progress-text").textContent = "Waiting for the first rows…";
  byId("status").textContent = "Generating…";
  show(byId("running"), true);
  show(byId("generate"), false, byId("cancel"));
}

function hideRunning() {
  show(byId("generate"), true);
  show(byId("running"), false, byId("generate"));
}

function openRows(columns) {
  table.clear(columns);
  distributions.clear();
  distributions.setLegend(Object.keys(shown.request.conditions).length > 0);
  byId("rows-note").textContent = `Seed ${shown.request.seed}`;
  byId("quality").before(byId("distributions"));
  show(byId("rows"), true);
  byId("rows").setAttribute("aria-busy", "true");
  show(byId("take"), false, byId("rows-title"));
  showSections();
  bringIntoSight(byId("rows"));
}

// Only where the form stands beside the rows: a form above them holds the Cancel button.
function bringIntoSight(element) {
  const { top } = element.getBoundingClientRect();
  const beside = matchMedia("(min-width: 901px)").matches;
  if (beside && (top < 0 || top > innerHeight / 2)) element.scrollIntoView();
}

/** @param ending "" for a complete table, or how it ended */
function finish(received, ending) {
  drawRows(received);
  distributions.describe();
  byId("rows").removeAttribute("aria-busy");
  const seconds = ((performance.now() - received.since) / 1000).toFixed(1);
  const made = ending ? `${whole(received.count)} of ${rowsOf(received.wanted)}, ${ending}` : rowsOf(received.count);
  byId("rows-note").textContent = `${made} · seed ${shown.request.seed} · ${seconds} s`;
  byId("status").replaceChildren(`${made}. `, el("a", { href: "#rows", class: "jump", onclick: jump }, "See the rows"));
  offerDownloads(ending !== "");
  show(byId("take"), true);
  byId("snippets").replaceChildren(...snippets(shown.model, shown.request));
  writeLink({ model: shown.model, ...shown.request });
}

function offerDownloads(partial) {
  const offered = Object.keys(FORMATS).filter((format) => limits.formats.includes(format));
  const buttons = offered.map((format) =>
    el("button", { type: "button", onclick: (event) => download(format, event.currentTarget) }, FORMATS[format][0]));
  const what = partial ? `Download all ${rowsOf(shown.request.count)} of this seed:` : "Download:";
  byId("downloads").replaceChildren(el("span", { class: "note" }, what), ...buttons);
}

async function download(format, button) {
  const { model: id, version, request } = shown;
  const [name, ending] = FORMATS[format];
  clearTrouble();
  // Not disabled: a disabled button loses the focus.
  if (button.getAttribute("aria-busy")) return;
  button.setAttribute("aria-busy", "true");
  button.textContent = "Making the file…";
  try {
    const file = await api.generateFile(id, { ...request, format });
    api.save(file.blob, `${id}-${request.seed}.${ending}`);
    if (file.version !== version) showTrouble("The model was replaced meanwhile: the file holds other rows than this page.");
  } catch (error) {
    report(error, { again: () => download(format, button) });
  } finally {
    button.removeAttribute("aria-busy");
    button.textContent = name;
  }
}

/** Links to what is there. Their addresses are not used: what follows "#" is the view. */
function showSections() {
  const sections = [...document.querySelectorAll("#content > section:not([hidden])")];
  const links = sections.map((section) => el("a", { href: `#${section.id}`, onclick: jump }, byId(`${section.id}-title`).textContent));
  byId("sections").replaceChildren(...links);
  show(byId("sections"), true);
}

function jump(event) {
  event.preventDefault();
  const target = byId(event.currentTarget.getAttribute("href").slice(1));
  target.scrollIntoView();
  (byId(`${target.id}-title`) ?? target).focus({ preventScroll: true });
}

document.querySelector(".skip").addEventListener("click", jump);
byId("cancel").addEventListener("click", () => running?.abort());
addEventListener("hashchange", () => {
  const view = readLink();
  if (view.model && view.model !== model?.id) openModel(view.model);
  else if (model) { form.setModel(model); form.write(view); }
});
setUpKey(start);
start();
