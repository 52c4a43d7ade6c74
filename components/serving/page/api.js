// The service, as seen from here: requests, problems, the API key, and rows as they arrive.
// Paths are relative, so that the page works behind any route prefix.

const KEY = "difflm-api-key";

/** An answer that is not a success: RFC 9457, or what could be made of it. */
export class Problem extends Error {
  constructor({ status, title, detail, retry_after_seconds = null, errors = [] }) {
    super(detail || title);
    Object.assign(this, { status, title, retryAfter: retry_after_seconds, errors });
  }
}

/** The stream ended before its last row. */
export class BrokenStream extends Error {}

/** Where the key is: in this tab's session only, never in an address or on a disk. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

let askForKey = async (problem) => { throw problem; };
let asking = null;

/** Names who asks for a key: a function of the problem that resolves once there is one. */
export function onKeyNeeded(ask) { askForKey = ask; }

// Requests that are refused at the same time wait for one and the same question.
function needKey(problem) {
  asking ??= askForKey(problem).finally(() => { asking = null; });
  return asking;
}

async function send(path, { method = "GET", body, signal } = {}) {
  for (;;) {
    const sent = key.get();
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (sent) headers.Authorization = `Bearer ${sent}`;
    const answer = await reach(path, { method, headers, body: body && JSON.stringify(body), signal });
    if (answer.ok) return answer;
    const problem = await readProblem(answer);
    if (answer.status !== 401) throw problem;
    // Another request may have brought a key while this one was on its way.
    if (key.get() === sent) await needKey(problem);
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ status: 0, title: "The service cannot be reached.", detail: "The service cannot be reached." });
  }
}

async function readProblem(answer) {
  const known = { status: answer.status, title: answer.statusText || `Status ${answer.status}` };
  const after = Number(answer.headers.get("Retry-After"));
  if (after > 0) known.retry_after_seconds = after;
  try {
    const told = await answer.json();
    return new Problem({ ...known, ...told, retry_after_seconds: told.retry_after_seconds ?? known.retry_after_seconds });
  } catch {
    return new Problem({ ...known, detail: `The service answered with status ${answer.status}.` });
  }
}

const json = async (path, options) => (await send(path, options)).json();
const modelPath = (id) => `v1/models/${encodeURIComponent(id)}`;
const jobPath = (id) => `v1/jobs/${encodeURIComponent(id)}`;

export const limits = () => json("v1/limits");
export const models = async () => (await json("v1/models")).models;
export const model = (id) => json(modelPath(id));
export const distributions = async (id) => (await json(`${modelPath(id)}/distributions`)).columns;
export const generatePath = (id) => `${modelPath(id)}/generate`;

export const jobs = async () => (await json("v1/jobs")).jobs;
export const job = (id) => json(jobPath(id));
export const startJob = (body) => json("v1/jobs", { method: "POST", body });
export const cancelJob = (id) => json(jobPath(id), { method: "DELETE" });
// Built from the name rather than taken from the answer, which does not know our prefix.
export const jobFilePath = (id, name) => `${jobPath(id)}/files/${encodeURIComponent(name)}`;

/** Starts to generate; gives what the headers say, and the rows as they arrive. */
export async function generate(id, body, signal) {
  const answer = await send(generatePath(id), { method: "POST", body: { ...body, format: "ndjson" }, signal });
  return {
    seed: Number(answer.headers.get("X-Seed")),
    version: answer.headers.get("X-Model-Version"),
    batches: parseLines(answer.body),
  };
}

/** Arrays of objects, one array for each piece that the network delivers. */
async function* parseLines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await readOrBreak(reader);
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    const batch = lines.filter(Boolean).map(parseLine);
    if (batch.length) yield batch;
    if (done) return;
  }
}

async function readOrBreak(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new BrokenStream();
  }
}

function parseLine(line) {
  try {
    return JSON.parse(line);
  } catch {
    throw new BrokenStream(); // cut in the middle of a row
  }
}

/** The same rows in another format, as a file. */
export async function generateFile(id, body) {
  const answer = await send(generatePath(id), { method: "POST", body });
  return { blob: await blobOf(answer), version: answer.headers.get("X-Model-Version") };
}

export const jobFile = async (id, name) => blobOf(await send(jobFilePath(id, name)));

async function blobOf(answer) {
  try {
    return await answer.blob();
  } catch {
    throw new BrokenStream();
  }
}

/** Hands a file to the browser. */
export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  Object.assign(link, { href: address, download: name });
  link.click();
  // Not at once: the browser reads the address after this turn.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
