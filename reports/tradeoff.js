"use strict";
// The trade-off page: chart, readings and tables from the JSON block. Names are the user's: text nodes only.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const lines = data.policies.filter((policy) => policy.family !== data.floor);
const floors = data.policies.filter((policy) => policy.family === data.floor);
const state = { measure: data.measures[0].key, axis: data.axes[0].key, bound: 0, against: "", at: 0, hidden: new Set() };
state.against = data.random === null ? data.policies[0].label : data.random;

// ---- numbers as text
const ABSENT = "–";
const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);
const percent = (share, digits = 1) => (known(share) ? `${(100 * share).toFixed(digits)} %` : ABSENT);
const scaled = (value, unit, steps) => {
  for (const [size, prefix] of steps) if (value >= size * 0.9995) return `${Number((value / size).toPrecision(3))} ${prefix}${unit}`;
  return value === 0 ? `0 ${unit}` : `${value.toPrecision(2)} ${unit}`;
};
const LARGE = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const SMALL = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
const bytes = (value) => (known(value) ? scaled(value, "B", LARGE) : ABSENT);
const cost = (value) => {
  const unit = axis().unit;
  if (unit === "share") return percent(value);
  return unit === "bytes" ? bytes(value) : scaled(value, unit, SMALL);
};
const decimal = (value, sign = "") => (known(value) ? (sign && value >= 0 ? sign : "") + value.toFixed(4).replace("-", "−") : ABSENT);
const whole = (share) => (100 * share).toFixed(0).replace("-", "−");
const axis = () => data.axes.find((one) => one.key === state.axis);
const measureTitle = () => data.measures.find((one) => one.key === state.measure).title;
const onBoundAxis = () => state.axis === "requests" && state.measure === data.measures[0].key;

// ---- statistics: the same rules as reports/tradeoff_stats.py
const resampled = new Map();
function replicates(measure) {
  if (!resampled.has(measure)) {
    const { low, step, data: packed } = data.resampled[measure];
    const raw = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const view = new DataView(raw.buffer);
    resampled.set(measure, Float64Array.from({ length: raw.length / 2 }, (_, i) => low + step * view.getUint16(2 * i, true)));
  }
  return resampled.get(measure);
}

/** [[point, weight], ...] of a policy at a cost, or null where it does not reach. */
function weights(policy, at) {
  if (policy.family === data.floor) return policy.points.map((point) => [point, 1 / policy.points.length]);
  const costs = data.cost[state.axis];
  const groups = new Map();
  for (const point of policy.points) {
    if (known(costs[point])) groups.set(costs[point], [...(groups.get(costs[point]) || []), point]);
  }
  const places = [...groups.keys()].sort((a, b) => a - b);
  const last = places.length - 1;
  const slack = data.reach * Math.abs(at);
  if (last < 0 || at < places[0] - slack || at > places[last] + slack) return null;
  const spread = (place, share) => groups.get(place).map((point) => [point, share / groups.get(place).length]);
  const inside = Math.min(Math.max(at, places[0]), places[last]);
  if (last === 0) return spread(places[0], 1);
  let right = places.findIndex((place) => place >= inside);
  right = Math.max(right, 1);
  const share = (inside - places[right - 1]) / (places[right] - places[right - 1]);
  return [...spread(places[right - 1], 1 - share), ...spread(places[right], share)];
}

function withEnds(value, values) {
  const sorted = Float64Array.from(values).sort();
  const at = (q) => {
    const place = q * (sorted.length - 1);
    const low = Math.floor(place);
    return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
  };
  return [value, at(0.025), at(0.975)];
}

function boundAt(curve, at) {
  if (at < curve.x[0]) return null;
  const right = curve.x.findIndex((x) => x >= at);
  if (right < 0) return curve.y[curve.y.length - 1];
  if (right === 0) return curve.y[0];
  const share = (at - curve.x[right - 1]) / (curve.x[right] - curve.x[right - 1]);
  return curve.y[right - 1] + share * (curve.y[right] - curve.y[right - 1]);
}

/** Whether a bound's value is so far above never's that shares of the difference say anything. */
function worth(top) {
  const never = data.values[state.measure][data.never];
  return top > never && top - never >= data.least * Math.abs(never);
}

function read(policy, at) {
  const mix = weights(policy, at);
  if (!mix) return null;
  const values = data.values[state.measure];
  const table = replicates(state.measure);
  const width = values.length;
  const rows = table.length / width;
  const sum = (row) => mix.reduce((total, [point, weight]) => total + weight * row(point), 0);
  const value = sum((point) => values[point]);
  const drawn = Array.from({ length: rows }, (_, r) => sum((point) => table[r * width + point]));
  const share = (top, topOf) => {
    const never = values[data.never];
    const recovered = (value - never) / (top - never);
    return withEnds(recovered, drawn.map((one, r) => (one - table[r * width + data.never]) / (topOf(r) - table[r * width + data.never])));
  };
  const top = onBoundAxis() && data.bounds.length ? boundAt(data.bounds[state.bound], at) : null;
  return {
    value: withEnds(value, drawn),
    gain: withEnds(value - values[data.never], drawn.map((one, r) => one - table[r * width + data.never])),
    recovered: data.shares[state.measure] ? share(values[data.always], (r) => table[r * width + data.always]) : null,
    ofBound: known(top) && worth(top) ? share(top, () => top) : null,
    install: sum((point) => data.install[point]),
  };
}

function pointInterval(point) {
  const table = replicates(state.measure);
  const width = data.values[state.measure].length;
  const column = Array.from({ length: table.length / width }, (_, r) => table[r * width + point]);
  return withEnds(data.values[state.measure][point], column);
}
