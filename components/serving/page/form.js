// The form: what to generate, and what is wrong with it.

import { Conditions } from "./conditions.js";
import { byId, el, show, whole } from "./dom.js";

const FIELDS = ["count", "seed", "temperature", "top_p"];

export class GenerateForm {
  constructor({ onSubmit, onModel, onChange }) {
    this.form = byId("form");
    this.inputs = Object.fromEntries(FIELDS.map((name) => [name, byId(name)]));
    this.conditions = new Conditions({
      area: byId("conditions"), list: byId("condition-list"), add: byId("condition-add"),
      select: byId("condition-column"), button: byId("condition-button"),
    }, onChange);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.clearProblems();
      if (this.check()) onSubmit();
    });
    this.form.addEventListener("input", () => { this.offerJob(); onChange(); });
    byId("model").addEventListener("change", (event) => onModel(event.target.value));
  }

  setModels(models) {
    byId("model").replaceChildren(...models.map(({ id }) => el("option", { value: id }, id)));
    show(byId("model-field"), models.length > 1);
  }

  setLimits(limits) {
    this.limits = limits;
    this.inputs.count.max = limits.job_formats.length ? limits.rows_per_job : limits.rows_per_request;
    byId("job-format").replaceChildren(...limits.job_formats.map((format) => el("option", {}, format)));
    this.offerJob();
  }

  setModel(details) {
    byId("model").value = details.id;
    this.conditions.setColumns(details.columns);
    this.clearProblems();
  }

  /** What `schemas.Sampling` holds, and the number of rows. */
  read() {
    const { count, seed, temperature, top_p } = this.inputs;
    return {
      count: count.valueAsNumber,
      seed: seed.value === "" ? null : seed.valueAsNumber,
      temperature: temperature.valueAsNumber,
      top_p: top_p.valueAsNumber,
      conditions: this.conditions.read(),
    };
  }

  write({ conditions, ...values }) {
    for (const name of FIELDS) {
      if (values[name] !== undefined) this.inputs[name].value = values[name] ?? "";
    }
    byId("advanced").open ||= values.temperature !== undefined || values.top_p !== undefined;
    this.conditions.write(conditions ?? {});
    this.offerJob();
  }

  get jobFormat() { return byId("job-format").value; }

  /** Whether so many rows are written to files rather than answered at once. */
  get isJob() {
    return Boolean(this.limits) && this.inputs.count.valueAsNumber > this.limits.rows_per_request;
  }

  offerJob() {
    const offered = this.isJob && this.limits.job_formats.length > 0;
    show(byId("job-note"), offered);
    byId("generate").textContent = offered ? "Start a job" : "Generate";
    if (!offered) return;
    byId("job-hint").textContent =
      `At most ${whole(this.limits.rows_per_request)} rows come at once. More are written to files by a job, which goes on when this page is closed.`;
  }

  /** Says beside each input what is wrong; the browser's own bubbles would vanish again. */
  check() {
    const wrong = FIELDS.map((name) => this.inputs[name]).filter((input) => !input.validity.valid);
    this.showProblems(wrong.map((input) => ({ field: input.name, message: requirement(input) })));
    return wrong.length === 0;
  }

  /** Puts messages beside their inputs; gives those that belong to none. */
  showProblems(problems) {
    const placed = problems.map((problem) => [problem, this.complain(problem)]);
    const first = placed.find(([, input]) => input)?.[1];
    if (first) {
      first.closest("details")?.setAttribute("open", "");
      first.focus();
    }
    return placed.filter(([, input]) => !input).map(([problem]) => problem);
  }

  complain({ field, message }) {
    const path = field.replace(/^body\./, "");
    if (path.startsWith("conditions.")) return this.conditions.complain(path.slice("conditions.".length), message);
    const input = this.inputs[path];
    if (!input) return null;
    byId(`${path}-problem`).textContent = message;
    input.setAttribute("aria-invalid", "true");
    return input;
  }

  clearProblems() {
    for (const name of FIELDS) {
      byId(`${name}-problem`).textContent = "";
      this.inputs[name].removeAttribute("aria-invalid");
    }
    this.conditions.clearProblems();
  }
}

function requirement({ min, max, step, validity }) {
  const kind = step === "1" ? "A whole number" : "A number";
  if (validity.rangeOverflow) return `At most ${whole(max)}.`;
  return max && min ? `${kind} from ${whole(min)} to ${whole(max)}.` : `${kind}, at least ${whole(min)}.`;
}
