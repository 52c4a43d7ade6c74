// Counts what a column of generated rows holds, in the bins of its training distribution.
// Memory is that of the bins, however many rows are counted.

const MAX_BARS = 12;

/** A number for a number, an ISO 8601 date, time, or both: one axis for all of them. */
export function position(value) {
  if (typeof value === "number") return value;
  const text = String(value);
  const full = /^\d{1,2}:/.test(text) ? `1970-01-01T${text}` : text;
  // Without a zone all are read as UTC, or summer time would shift some of them.
  const zoned = !full.includes("T") && !full.includes(" ") || /(Z|[+-]\d\d:?\d\d)$/.test(full);
  return Date.parse(zoned ? full : `${full.replace(" ", "T")}Z`);
}

/** What is counted, as groups to draw: [{label, training}], and the group of a value. */
function grouping(distribution) {
  return distribution.labels ? byLabel(distribution) : byBin(distribution);
}

function byLabel({ labels, shares }) {
  const order = labels.map((label, index) => ({ label, training: shares[index] }));
  // Numbers keep their order; names are read best with the most frequent first.
  if (!labels.every((label) => typeof label === "number")) order.sort((a, b) => b.training - a.training);
  const numOthers = order.length > MAX_BARS + 1 ? order.length - MAX_BARS : 0;
  const groups = numOthers ? mostFrequent(order, MAX_BARS) : order;
  const rest = 1 - groups.reduce((sum, group) => sum + group.training, 0);
  const places = new Map(groups.map((group, index) => [group.label, index]));
  const others = groups.length;
  const label = numOthers ? `${numOthers} others` : "others";
  const withOthers = numOthers || rest > 5e-4 ? [...groups, { label, training: Math.max(0, rest), others: true }] : groups;
  return { groups: withOthers, groupOf: (value) => places.get(value) ?? others };
}

function mostFrequent(order, count) {
  const kept = new Set([...order].sort((a, b) => b.training - a.training).slice(0, count));
  return order.filter((group) => kept.has(group));
}

function byBin({ edges, shares }) {
  const bounds = edges.map(position);
  const groups = shares.map((training, index) => ({ label: `${edges[index]} to ${edges[index + 1]}`, training }));
  return { groups, groupOf: (value) => binOf(bounds, position(value)), bounds };
}

// The last bin holds its upper bound; what lies outside counts where it is nearest.
function binOf(bounds, value) {
  let low = 0, high = bounds.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (bounds[middle] <= value) low = middle; else high = middle - 1;
  }
  return low;
}

/** Shares of training and of counted values. */
export class Tally {
  constructor(distribution) {
    this.name = distribution.name;
    this.edges = distribution.edges;
    this.trainingMissing = distribution.missing;
    Object.assign(this, grouping(distribution));
    this.clear();
  }

  clear() {
    this.counts = new Float64Array(this.groups.length + 1);
    this.present = 0;
    this.missing = 0;
  }

  add(row) {
    const value = row[this.name];
    if (value === null || value === undefined) { this.missing += 1; return; }
    this.counts[this.groupOf(value)] += 1;
    this.present += 1;
  }

  get total() { return this.present + this.missing; }
  get syntheticMissing() { return this.total ? this.missing / this.total : 0; }

  /** Share of a group among the values that are there. */
  share(index) { return this.present ? this.counts[index] / this.present : 0; }
}
