// ---- building blocks
const SVG = "http://www.w3.org/2000/svg";
function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
function html(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}
const SHAPES = {
  o: "M-4,0a4,4 0 1 0 8,0a4,4 0 1 0 -8,0Z", s: "M-3.6,-3.6h7.2v7.2h-7.2Z", D: "M0,-4.8L4.8,0L0,4.8L-4.8,0Z",
  "^": "M0,-4.8L4.6,3.6H-4.6Z", v: "M0,4.8L4.6,-3.6H-4.6Z", P: "M-1.5,-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3Z",
  X: "M-4.2,-2.2L-2.2,-4.2L0,-2L2.2,-4.2L4.2,-2.2L2,0L4.2,2.2L2.2,4.2L0,2L-2.2,4.2L-4.2,2.2L-2,0Z",
  "*": "M0,-5.5L1.4,-1.8L5.2,-1.7L2.2,.7L3.3,4.5L0,2.3L-3.3,4.5L-2.2,.7L-5.2,-1.7L-1.4,-1.8Z",
};
function look(policy) {
  const i = lines.indexOf(policy);
  if (i < 0) return { colour: "#6b7580", shape: SHAPES.o, width: 1.2, dash: "1 3" };
  const n = data.colours.length;
  return {
    colour: data.colours[i % n],
    shape: SHAPES[data.markers[(i + Math.floor(i / n)) % data.markers.length]],
    width: policy.family === "ours" ? 2.8 : 1.5,
    dash: policy.family === "ablation" ? "2 3" : "none",
  };
}
function key(policy) {
  const { colour, shape, width, dash } = look(policy);
  const line = { x1: 0, x2: 34, y1: 7, y2: 7, stroke: colour, "stroke-width": width, "stroke-dasharray": dash };
  return svg("svg", { class: "key", viewBox: "0 0 34 14", "aria-hidden": "true" }, svg("line", line),
    svg("path", { d: shape, fill: colour, transform: "translate(17 7)" }));
}
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return { step, found };
}

// ---- the chart
let scale = null;
const shown = () => lines.filter((policy) => !state.hidden.has(policy));
const shownBounds = () => (onBoundAxis() ? data.bounds.filter((curve, i) => i === state.bound && !state.hidden.has(curve)) : []);
function domain() {
  const costs = data.cost[state.axis];
  const of = (policies) => policies.flatMap((policy) => policy.points.map((point) => costs[point])).filter(known);
  const places = of(lines).length ? of(lines) : of(floors);
  const high = Math.max(...places) * 1.04 || 1;
  const spread = high - Math.min(...places);
  const low = Math.min(...places) < 0.5 * high ? 0 : Math.max(0, Math.min(...places) - 0.06 * spread);
  const { step } = ticks(low, high, 200);
  return { low: Math.floor(low / step) * step, high: Math.ceil(high / step) * step, step };
}
function values() {
  const points = [...shown(), ...floors].flatMap((policy) => policy.points).filter((point) => known(data.cost[state.axis][point]) || data.budget[point] === null);
  const bounds = shownBounds().flatMap((curve) => curve.y);
  const found = [...points.flatMap((point) => pointInterval(point)), ...bounds].filter(known);
  const low = Math.min(...found);
  const high = Math.max(...found);
  const margin = 0.05 * (high - low || 1);
  return { low: low - margin, high: high + margin };
}
function frame() {
  const width = Math.max(280, byId("chart").clientWidth);
  const narrow = width < 560;
  const height = Math.round(narrow ? width * 1.05 : Math.min(width * 0.52, 540));
  const box = { left: narrow ? 48 : 62, right: width - 14, top: 12, bottom: height - 46, width, height, narrow };
  const [x, y] = [domain(), values()];
  return {
    box, x,
    yAxis: y,
    px: (value) => box.left + ((value - x.low) / (x.high - x.low)) * (box.right - box.left),
    py: (value) => box.bottom - ((value - y.low) / (y.high - y.low)) * (box.bottom - box.top),
    back: (pixel) => x.low + ((pixel - box.left) / (box.right - box.left)) * (x.high - x.low),
  };
}
function grid() {
  const { box, x, yAxis, px, py } = scale;
  const group = svg("g", { "aria-hidden": "true" });
  const y = ticks(yAxis.low, yAxis.high, box.narrow ? 6 : 8);
  const digits = Math.max(2, -Math.floor(Math.log10(y.step) + 1e-9));
  for (const value of y.found) {
    group.append(svg("line", { x1: box.left, x2: box.right, y1: py(value), y2: py(value), stroke: "#e6e9ed" }),
      svg("text", { x: box.left - 7, y: py(value) + 4, "text-anchor": "end" }, value.toFixed(digits)));
  }
  for (const value of ticks(x.low, x.high, box.narrow ? 4 : 8).found) {
    group.append(svg("line", { x1: px(value), x2: px(value), y1: box.bottom, y2: box.bottom + 5, stroke: "#8a94a0" }),
      svg("text", { x: px(value), y: box.bottom + 19, "text-anchor": "middle" }, cost(value).replace(".0 %", " %")));
  }
  group.append(svg("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, stroke: "#8a94a0" }),
    svg("text", { class: "title", x: (box.left + box.right) / 2, y: box.height - 6, "text-anchor": "middle" }, axis().title));
  return group;
}
const nameAt = (y, text) => svg("text", { class: "name", x: scale.box.right - 2, y, "text-anchor": "end" }, text);
/** Moves names at the right edge up so that none is printed over another. */
function apart(names) {
  let above = Infinity;
  for (const one of [...names].sort((a, b) => b.getAttribute("y") - a.getAttribute("y"))) {
    above = Math.min(Number(one.getAttribute("y")), above - 13);
    one.setAttribute("y", Math.max(above, 10));
  }
  return names;
}
function floorLine(policy) {
  const { box, px, py, x } = scale;
  const point = policy.points[0];
  const y = py(data.values[state.measure][point]);
  const at = data.cost[state.axis][point];
  const beyond = known(at) && at > x.high && !box.narrow ? ` (at ${cost(at)})` : "";
  const group = svg("g", { "data-policy": policy.label });
  group.append(svg("line", { x1: box.left, x2: box.right, y1: y, y2: y, stroke: "#6b7580", "stroke-dasharray": "1 3", "stroke-width": 1.4 }));
  if (known(at) && at <= x.high && at >= x.low) group.append(svg("circle", { cx: px(at), cy: y, r: 4.5, fill: "#6b7580" }));
  return [group, nameAt(y - 4, policy.label + beyond)];
}
const boundDash = (curve) => (data.bounds.indexOf(curve) ? "3 4" : "8 5");
function boundLine(curve) {
  const { box, px, py, x } = scale;
  const points = curve.x.map((at, k) => [at, curve.y[k]]).filter(([at]) => at <= x.high);
  points.push([x.high, boundAt(curve, x.high)]);
  const path = "M" + points.map(([at, value]) => `${px(at)},${py(value)}`).join("L");
  const line = svg("path", { class: "bound", d: path, fill: "none", stroke: "#333b44", "stroke-width": 1.8, "stroke-dasharray": boundDash(curve) });
  return [line, nameAt(py(boundAt(curve, x.high)) - 5, curve.label)];
}
/** What a point was asked to spend and did, and how far off where that is far. */
function spentText(point) {
  const [wanted, spent] = [data.budget[point], data.cost.requests[point]];
  if (!known(wanted)) return "";
  const off = spent / wanted - 1;
  return `, wanted ${percent(wanted)} → spent ${percent(spent)}${Math.abs(off) > data.off ? ` (${off > 0 ? "+" : ""}${whole(off)} %)` : ""}`;
}
function policyLine(policy) {
  const { px, py } = scale;
  const { colour, shape, width, dash } = look(policy);
  const costs = data.cost[state.axis];
  const front = data.front[state.measure][state.axis].inside;
  const points = policy.points.filter((point) => known(costs[point])).sort((a, b) => costs[a] - costs[b]);
  const group = svg("g", { class: "line", "data-policy": policy.label });
  const place = (point) => [px(costs[point]), py(data.values[state.measure][point])];
  if (points.length) group.append(svg("path", { d: "M" + points.map((point) => place(point).join()).join("L"), fill: "none", stroke: colour, "stroke-width": width, "stroke-dasharray": dash, "stroke-linejoin": "round" }));
  for (const point of points) {
    const [cx, cy] = place(point);
    const [, low, high] = pointInterval(point);
    group.append(svg("path", { d: `M${cx},${py(low)}V${py(high)}M${cx - 3},${py(low)}h6M${cx - 3},${py(high)}h6`, stroke: colour, "stroke-width": 1, opacity: 0.55, fill: "none" }));
    if (front[point]) group.append(svg("circle", { cx, cy, r: 8, fill: "none", stroke: "#1c232b", "stroke-width": 1.2 }));
    group.append(svg("path", { d: shape, fill: colour, stroke: "#fff", "stroke-width": 0.7, transform: `translate(${cx} ${cy})` },
      svg("title", {}, `${policy.label}: ${decimal(data.values[state.measure][point])} at ${cost(costs[point])}${spentText(point)}`)));
  }
  return group;
}
function drawChart() {
  scale = frame();
  const { box } = scale;
  const label = `${measureTitle()} against ${axis().title.toLowerCase()}, ${shown().length} policies. The numbers are in the tables below.`;
  const drawing = svg("svg", { viewBox: `0 0 ${box.width} ${box.height}`, height: box.height, role: "img", "aria-label": label });
  const named = [...floors.map(floorLine), ...shownBounds().map(boundLine)];
  drawing.append(grid(), ...named.map(([line]) => line), ...shown().map(policyLine));
  drawing.append(...apart(named.map(([, text]) => text)), svg("g", { id: "cursor" }));
  const move = (event) => {
    const x = event.clientX - drawing.getBoundingClientRect().left;
    setBudget(scale.back(Math.min(Math.max(x, box.left), box.right)));
  };
  drawing.addEventListener("pointerdown", (event) => { if (event.button === 0) move(event); });
  drawing.addEventListener("pointermove", (event) => { if (event.buttons === 1) move(event); });
  byId("chart").replaceChildren(drawing);
  const row = byId("slider-row");
  row.style.marginLeft = `${box.left - 8}px`; // half a thumb, so that the thumb stands below the line
  row.style.marginRight = `${box.width - box.right - 8}px`;
}
function drawCursor() {
  const { box, px, py } = scale;
  const x = px(state.at);
  const marks = shown().flatMap((policy) => {
    const mix = weights(policy, state.at);
    if (!mix) return [];
    const value = mix.reduce((total, [point, weight]) => total + weight * data.values[state.measure][point], 0);
    return [svg("circle", { cx: x, cy: py(value), r: 3, fill: "#fff", stroke: look(policy).colour, "stroke-width": 2 })];
  });
  byId("cursor").replaceChildren(svg("line", { x1: x, x2: x, y1: box.top, y2: box.bottom, stroke: "#0060a0", "stroke-width": 1.5 }), ...marks);
}
