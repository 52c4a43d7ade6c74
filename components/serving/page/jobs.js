// Jobs: tables too large for an answer. They run in the service; this list follows them.

import * as api from "./api.js";
import { byId, bytes, el, rowsOf, show, whole } from "./dom.js";

const WORDS = { waiting: "Waiting", running: "Running", succeeded: "Finished", failed: "Failed", cancelled: "Cancelled" };
const POLL_MS = 1000, MAX_POLL_MS = 10_000;
const MAX_SHOWN = 10;

const isActive = (job) => job.status === "waiting" || job.status === "running";

export class JobList {
  constructor(onProblem) {
    this.onProblem = onProblem;
    this.entries = new Map();
  }

  /** Jobs of earlier visits. */
  async load() {
    const jobs = (await api.jobs()).slice(0, MAX_SHOWN);
    for (const job of jobs.reverse()) this.put(job);
  }

  async start(body) {
    this.put(await api.startJob(body));
    byId("jobs-title").focus();
  }

  put(job) {
    const entry = new JobEntry(job, this.onProblem);
    this.entries.get(job.id)?.element.remove();
    this.entries.set(job.id, entry);
    byId("job-list").prepend(entry.element);
    show(byId("jobs"), true);
    entry.follow();
  }
}

class JobEntry {
  constructor(job, onProblem) {
    this.onProblem = onProblem;
    this.progress = el("progress", { "aria-label": `Rows of job ${job.id}` });
    this.state = el("p", { class: "note", role: "status" });
    this.counted = el("p", { class: "note" });
    this.cancelButton = el("button", { type: "button", "aria-label": `Cancel job ${job.id}`, onclick: () => this.cancel() }, "Cancel");
    this.files = el("ul", { class: "files" });
    this.element = el("li", { class: "job", "data-job": job.id },
      el("h3", {}, `${rowsOf(job.count)} of ${job.model}`),
      this.state, this.progress, this.counted, this.cancelButton, this.files);
    this.update(job);
  }

  update(job) {
    this.job = job;
    this.progress.max = job.count;
    this.progress.value = job.num_done;
    setText(this.state, `${WORDS[job.status]} · ${job.format} · seed ${job.seed}${job.error ? ` · ${job.error}` : ""}`);
    setText(this.counted, isActive(job) ? `${whole(job.num_done)} of ${rowsOf(job.count)}` : "");
    show(this.progress, isActive(job));
    show(this.cancelButton, isActive(job), byId("jobs-title"));
    this.showFiles();
  }

  // Only new ones are added: a link that is drawn again would lose the focus.
  showFiles() {
    const files = this.job.status === "succeeded" ? this.job.files : [];
    for (const file of files.slice(this.files.children.length)) {
      this.files.append(el("li", {}, this.download(file), el("span", { class: "note" }, ` ${rowsOf(file.rows)}, ${bytes(file.bytes)}`)));
    }
  }

  // A plain link lets the browser write a large file as it comes; but it cannot send a key.
  download({ name }) {
    const fetchFile = async (event) => {
      if (!api.key.get()) return;
      event.preventDefault();
      try {
        api.save(await api.jobFile(this.job.id, name), name);
      } catch (error) {
        this.onProblem(error);
      }
    };
    return el("a", { href: api.jobFilePath(this.job.id, name), download: name, onclick: fetchFile }, name);
  }

  /** Asks again and again, ever more slowly, until the job has ended. */
  async follow() {
    for (let wait = POLL_MS; isActive(this.job); wait = Math.min(wait * 1.3, MAX_POLL_MS)) {
      await new Promise((resolve) => { setTimeout(resolve, wait); });
      if (!this.element.isConnected) return;
      try {
        this.update(await api.job(this.job.id));
      } catch (error) {
        // A service that is busy or restarts will answer later; any other trouble stays.
        const passes = error.status === 0 || error.status === 429 || error.status >= 500;
        if (!passes) { this.onProblem(error); return; }
      }
    }
  }

  async cancel() {
    try {
      this.update(await api.cancelJob(this.job.id));
    } catch (error) {
      this.onProblem(error);
    }
  }
}

// The same text again would be read out again.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
