// Says what went wrong, once and politely, and when to try again.

import { BrokenStream, Problem } from "./api.js";
import { byId, show } from "./dom.js";

let countdown = null;

/** Shows a sentence; with `again`, also a button that repeats what failed. */
export function showTrouble(text, { again = null, after = 0 } = {}) {
  clearInterval(countdown);
  show(byId("trouble"), true);
  byId("alert").textContent = text;
  const button = byId("retry");
  show(button, again !== null);
  button.onclick = () => { clearTrouble(); again(); };
  if (again) count(button, after);
  // An input that is wrong has the focus, and stays in sight before all else.
  if (!document.querySelector("[aria-invalid]")) byId("trouble").scrollIntoView({ block: "nearest" });
}

export function clearTrouble() {
  clearInterval(countdown);
  byId("alert").textContent = "";
  show(byId("trouble"), false, byId("generate"));
}

// The countdown stands in the button, not in the alert, which would be read out every second.
function count(button, seconds) {
  let left = Math.ceil(seconds);
  const tick = () => {
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left-- <= 0) clearInterval(countdown);
  };
  tick();
  if (left >= 0) countdown = setInterval(tick, 1000);
}

/** Shows an error of the API; gives false where it is none, and only a bug of this page. */
export function showProblem(error, { again = null, context = "" } = {}) {
  if (error instanceof BrokenStream) {
    showTrouble("The connection broke before the end.", { again });
    return true;
  }
  if (!(error instanceof Problem)) return false;
  const retriable = [0, 401, 408, 429, 502, 503, 504].includes(error.status);
  showTrouble(`${context}${error.message}`, { again: retriable ? again : null, after: error.retryAfter ?? 0 });
  return true;
}
