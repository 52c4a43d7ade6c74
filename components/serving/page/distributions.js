// All charts of a model: training alone at first, and the generated rows beside it.

import { chartOf } from "./charts.js";
import { byId, el, show } from "./dom.js";
import { Tally } from "./tally.js";

const key = (kind, name) => [el("span", { class: `key ${kind}`, "aria-hidden": "true" }), name];

export class Distributions {
  setColumns(distributions) {
    this.tallies = distributions.map((distribution) => new Tally(distribution));
    this.charts = this.tallies.map(chartOf);
    byId("charts").replaceChildren(...this.charts.map((chart) => chart.element));
    show(byId("distributions"), this.charts.length > 0);
    this.setLegend();
  }

  /** @param conditioned whether the rows were asked for by conditions, null without rows */
  setLegend(conditioned = null) {
    const parts = [...key("real", "training rows")];
    if (conditioned !== null) parts.push(" ", ...key("made", "synthetic rows"));
    parts.push(". Percentages beside bars are shares of the training rows.");
    if (conditioned) parts.push(" The rows meet conditions, and are compared with all training rows.");
    byId("legend").replaceChildren(...parts);
  }

  /** Forgets the rows counted so far. */
  clear() {
    this.tallies.forEach((tally) => tally.clear());
  }

  add(batch) {
    for (const tally of this.tallies) for (const row of batch) tally.add(row);
  }

  draw() {
    this.charts.forEach((chart) => chart.update());
  }

  /** Writes the figures for screen readers; at rest, not with every batch. */
  describe() {
    this.charts.forEach((chart) => chart.describe());
  }
}
