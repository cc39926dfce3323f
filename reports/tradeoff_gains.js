// ---- predicted against realised gain of a request; the section is only there when a policy predicts one
const promises = [...new Set(data.gains.map((one) => one.label))];
const ratioText = (budget) => (known(budget) ? percent(budget) : "its own");
const colourOf = (i) => data.colours[i % data.colours.length];
const shapeOf = (i) => SHAPES[data.markers[(i + Math.floor(i / data.colours.length)) % data.markers.length]];

function promised() {
  const mine = data.gains.filter((one) => one.label === byId("promise").value);
  return mine[Number(byId("wanted").value)] || mine[0];
}
/** Scales of the chart: the same unit on both axes, so that the diagonal is where both are equal. */
function gainFrame(seeds) {
  const width = Math.max(280, byId("gains").clientWidth);
  const narrow = width < 560;
  const height = narrow ? Math.round(width * 1.05) : 440;
  const box = { left: 66, right: Math.min(width, narrow ? width : 680) - 14, top: 12, bottom: height - 50, width, height, narrow };
  const rows = seeds.flatMap((one) => one.rows);
  const range = (numbers) => {
    const found = numbers.filter(known);
    const [low, high] = [Math.min(0, ...found), Math.max(0, ...found)];
    const margin = 0.05 * (high - low || 1);
    return { low: low - margin, high: high + margin };
  };
  const [x, y] = [range(rows.map((row) => row[1])), range(rows.flatMap((row) => row.slice(2)))];
  const px = (value) => box.left + ((value - x.low) / (x.high - x.low)) * (box.right - box.left);
  const py = (value) => box.bottom - ((value - y.low) / (y.high - y.low)) * (box.bottom - box.top);
  return { box, x, y, px, py };
}
function gainGrid({ box, x, y, px, py }) {
  const group = svg("g", { "aria-hidden": "true" });
  const [across, up] = [ticks(x.low, x.high, box.narrow ? 4 : 7), ticks(y.low, y.high, 7)];
  const digits = ({ step }) => Math.max(2, -Math.floor(Math.log10(step) + 1e-9));
  const text = (value, axis) => (Math.abs(value) < axis.step / 2 ? "0" : value.toFixed(digits(axis)).replace("-", "−"));
  for (const value of up.found) {
    group.append(svg("line", { x1: box.left, x2: box.right, y1: py(value), y2: py(value), stroke: "#e6e9ed" }),
      svg("text", { x: box.left - 7, y: py(value) + 4, "text-anchor": "end" }, text(value, up)));
  }
  for (const value of across.found) {
    group.append(svg("line", { x1: px(value), x2: px(value), y1: box.bottom, y2: box.bottom + 5, stroke: "#8a94a0" }),
      svg("text", { x: px(value), y: box.bottom + 19, "text-anchor": "middle" }, text(value, across)));
  }
  const unit = `NDCG@10 ${box.narrow ? "" : "summed "}over the horizon`;
  const middle = (box.top + box.bottom) / 2;
  group.append(svg("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, stroke: "#8a94a0" }),
    svg("text", { class: "title", x: (box.left + box.right) / 2, y: box.height - 8, "text-anchor": "middle" }, `Predicted gain, ${unit}`),
    svg("text", { class: "title", x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, `Realised gain, ${unit}`));
  return group;
}
function diagonal({ x, y, px, py }) {
  const [low, high] = [Math.max(x.low, y.low), Math.min(x.high, y.high)];
  const ends = { x1: px(low), y1: py(low), x2: px(high), y2: py(high) };
  return svg("line", { class: "diagonal", ...ends, stroke: "#333b44", "stroke-dasharray": "6 4", "stroke-width": 1.4 });
}
function tenth([steps, predicted, realised, low, high], i, at, seed, { px, py }) {
  const group = svg("g", { class: "tenth" });
  const [cx, cy] = [px(predicted), py(realised)];
  const range = known(low) && known(high);
  if (range) group.append(svg("path", { class: "bar", d: `M${cx},${py(low)}V${py(high)}M${cx - 3},${py(low)}h6M${cx - 3},${py(high)}h6`, stroke: colourOf(i), "stroke-width": 1.2, opacity: 0.6, fill: "none" }));
  const told = `seed ${seed}, tenth ${at + 1}: predicted ${decimal(predicted)}, realised ${decimal(realised)}${range ? ` [${decimal(low)}, ${decimal(high)}]` : ""}, ${steps.toLocaleString("en")} steps`;
  group.append(svg("path", { d: shapeOf(i), fill: colourOf(i), stroke: "#fff", "stroke-width": 0.7, transform: `translate(${cx} ${cy})` }, svg("title", {}, told)));
  return group;
}
function drawGains() {
  const { label, budget, seeds } = promised();
  byId("promise-said").textContent = `“${label}” at a wanted ratio of ${ratioText(budget)}.`;
  const frame = gainFrame(seeds);
  const { width, height } = frame.box;
  const told = `Realised against predicted gain of a request, ${label} at a wanted ratio of ${ratioText(budget)}, ${seeds.length} seeds. The numbers are in the table below.`;
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": told });
  drawing.append(gainGrid(frame), diagonal(frame));
  seeds.forEach(({ seed, rows }, i) => {
    rows.forEach((row, at) => { if (known(row[1]) && known(row[2])) drawing.append(tenth(row, i, at, seed, frame)); });
  });
  byId("gains").replaceChildren(drawing);
  byId("gains-legend").replaceChildren(...seeds.map(({ seed }, i) => html("span", { class: "entry" },
    svg("svg", { class: "key", viewBox: "0 0 34 14", "aria-hidden": "true" }, svg("path", { d: shapeOf(i), fill: colourOf(i), transform: "translate(17 7)" })), `seed ${seed}`)));
}
/** The ratios of the chosen policy; the one next to a fifth of the steps is shown first. */
function fillWanted() {
  const mine = data.gains.filter((one) => one.label === byId("promise").value);
  byId("wanted").closest("label").hidden = mine.length < 2;
  byId("wanted").replaceChildren(...mine.map((one, i) => html("option", { value: i }, ratioText(one.budget))));
  const far = mine.map((one) => Math.abs((known(one.budget) ? one.budget : 0) - 0.2));
  byId("wanted").value = far.indexOf(Math.min(...far));
}
if (promises.length) {
  byId("gains-live").hidden = false;
  choices("promise", promises.map((label) => [label, label]), () => { fillWanted(); drawGains(); });
  fillWanted();
  byId("wanted").addEventListener("change", drawGains);
  drawGains();
  let drawn = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== drawn) { drawn = window.innerWidth; drawGains(); } });
}
