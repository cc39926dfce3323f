// ---- tables
const boundName = () => (data.bounds.length ? data.bounds[state.bound].label : "bound");
function heading(table, ...titles) {
  const cells = titles.map((title) => {
    const [main, small] = [].concat(title);
    return html("th", { scope: "col", ...(main.startsWith("Points") ? { class: "word" } : {}) }, main, small ? html("small", {}, small) : null);
  });
  byId(table).tHead.replaceChildren(html("tr", {}, ...cells));
}
const name = (policy, note) => html("th", { scope: "row" }, html("span", { class: "name" }, key(policy), html("span", {}, policy.label, note ? html("small", {}, note) : null)));
const cell = (main, small) => html("td", {}, main, small ? html("small", {}, small) : null);
const shareCell = (ends) => (ends && known(ends[0]) && Number.isFinite(ends[0]) ? cell(`${whole(ends[0])} %`, `[${whole(ends[1])}, ${whole(ends[2])}]`) : cell(ABSENT));
const gainCell = (ends) => cell(decimal(ends[0], "+"), `[${decimal(ends[1], "+")}, ${decimal(ends[2], "+")}]`);
function note(policy) {
  const costs = policy.points.map((point) => data.cost[state.axis][point]).filter(known);
  if (policy.family !== data.floor) return policy.family;
  return costs.length ? `reference, spends ${cost(costs[0])}` : "reference";
}
function reach(policy) {
  const costs = policy.points.map((point) => data.cost[state.axis][point]).filter(known);
  if (!costs.length) return "cost unknown";
  const [low, high] = [cost(Math.min(...costs)), cost(Math.max(...costs))];
  return low === high ? `only at ${low}` : `from ${low} to ${high}`;
}
/** A share or gain with what the same devices have without a request, where that is more than plain never asking. */
function withUnasked(made, { unasked }) {
  if (!known(unasked) || unasked === data.never) return made;
  const values = data.values[state.measure];
  const gain = values[unasked] - values[data.never];
  const said = data.shares[state.measure] ? `${whole(gain / (values[data.always] - values[data.never]))} %` : decimal(gain, "+");
  made.append(html("small", {}, `unasked ${said}`));
  return made;
}
function fillReadings() {
  heading("readings", "Policy", [measureTitle(), "95 % interval"], data.shares[state.measure] ? ["Recovered", "of never to always"] : ["Minus never", "95 % interval"], ["Of the gain", "of the chosen bound"], ["Installed", "bytes per device"]);
  const found = data.policies.map((policy) => ({ policy, reading: read(policy, state.at) }));
  const rows = found.filter((one) => one.reading).map(({ policy, reading }) => ({
    value: reading.value[0], policy, reading,
    row: html("tr", policy.family === data.floor ? { class: "reference" } : {}, name(policy, note(policy)),
      cell(decimal(reading.value[0]), `[${decimal(reading.value[1])}, ${decimal(reading.value[2])}]`),
      withUnasked(reading.recovered ? shareCell(reading.recovered) : gainCell(reading.gain), policy), shareCell(reading.ofBound), cell(bytes(reading.install))),
  }));
  const top = onBoundAxis() && data.bounds.length ? boundAt(data.bounds[state.bound], state.at) : null;
  if (known(top)) rows.push({ value: top, row: boundRow(top) });
  rows.sort((a, b) => b.value - a.value);
  const beyond = found.filter((one) => !one.reading).map(({ policy }) =>
    html("tr", { class: "beyond" }, name(policy, reach(policy)), ...[1, 2, 3, 4].map(() => cell(ABSENT))));
  byId("readings").tBodies[0].replaceChildren(...rows.map((one) => one.row), ...beyond);
  const best = rows.find((one) => one.policy && one.policy.family !== data.floor);
  const at = `At ${cost(state.at)} (${axis().title.toLowerCase()}) `;
  const gained = ({ recovered, gain }) => (recovered ? `${whole(recovered[0])} % of the way from never to always asking` : `${decimal(gain[0], "+")} over never asking`);
  const said = best ? `“${best.policy.label}” is best: ${measureTitle()} ${decimal(best.value)}, ${gained(best.reading)}.` : "no policy has a point.";
  byId("reading").textContent = at + said;
  byId("undefined").hidden = data.shares[state.measure];
  byId("undefined").textContent = data.undefined[state.measure];
}
function boundRow(top) {
  const values = data.values[state.measure];
  const gain = top - values[data.never];
  const part = data.shares[state.measure] ? `${whole(gain / (values[data.always] - values[data.never]))} %` : decimal(gain, "+");
  const label = html("th", { scope: "row" }, boundName(), html("small", {}, "knows the next items"));
  return html("tr", { class: "reference bound" }, label, cell(decimal(top)), cell(part), cell(worth(top) ? "100 %" : ABSENT), cell(ABSENT));
}
const third = (value) => value.toFixed(3).replace("-", "−");
function areaCell([value, low, high, from, to]) {
  return html("td", {}, third(value), html("small", {}, `[${third(low)}, ${third(high)}]`), html("small", {}, `${percent(from)} to ${percent(to)}`));
}
function fillFront() {
  const front = data.front[state.measure][state.axis];
  const areas = onBoundAxis() && data.bounds.length ? data.area[boundName()] : null;
  byId("front-lead").textContent = `${measureTitle()} against ${axis().title.toLowerCase()}. Beside each point that is Pareto-optimal, in how many of the draws of users it is.`;
  heading("front", "Policy", ["Points on the front", "bold; others that are on it in 5 % of draws or more"], ["Normalised area", "0 random, 1 bound"], ["Hypervolume", "larger is better"]);
  const rows = data.policies.map((policy, i) => ({ policy, i }));
  rows.sort((a, b) => data.volume[state.measure][state.axis][b.i][0] - data.volume[state.measure][state.axis][a.i][0]);
  byId("front").tBodies[0].replaceChildren(...rows.map(({ policy, i }) => {
    const on = policy.points.filter((point) => front.inside[point] || front.share[point] >= 0.05).map((point) => {
      const text = `${cost(data.cost[state.axis][point])}${state.axis === "requests" ? " of steps" : ""} (on the front in ${whole(front.share[point])} % of draws)`;
      return html(front.inside[point] ? "strong" : "span", { class: "point" }, text);
    });
    const area = areas && areas[i];
    const volume = data.volume[state.measure][state.axis][i];
    const number = (value) => (value === 0 ? "0" : value.toPrecision(3));
    return html("tr", policy.family === data.floor ? { class: "reference" } : {}, name(policy, policy.family === data.floor ? "reference" : policy.family),
      html("td", { class: "wrap" }, ...(on.length ? on : ["none"])),
      area ? areaCell(area) : cell(ABSENT),
      cell(number(volume[0]), `[${number(volume[1])}, ${number(volume[2])}]`));
  }));
}
const probability = (p) => (!known(p) ? "p unknown" : p < 0.001 ? "p < 0.001" : `p ${p.toFixed(3)}`);
function leadCell([, at, mean, low, high, dz, p], own) {
  const made = html("td", known(p) && p < 0.05 ? { class: "sure" } : {}, decimal(mean, "+"));
  if (known(low)) made.append(html("small", {}, `[${decimal(low)}, ${decimal(high)}]`));
  made.append(html("small", {}, `${probability(p)}${known(dz) ? `, d ${dz.toFixed(2).replace("-", "−")}` : ""}`));
  if (own) made.append(html("small", {}, `at ${percent(at)}`));
  return made;
}
function fillLeads() {
  const rows = data.leads[state.measure][state.against];
  byId("leads-lead").textContent = `Policy minus ${state.against} in ${measureTitle()}, each user against itself at the same realised request ratio, with 95 % t interval, p (Holm-corrected over all ${rows.length} cells) and d (the mean of the differences over their standard deviation). Bold: p below 0.05.`;
  const free = (i) => data.policies[i].points.every((point) => !known(data.budget[point]));
  const places = [...new Set(rows.filter(([i]) => !free(i)).map(([, at]) => at))].sort((a, b) => a - b);
  const own = rows.some(([i]) => free(i));
  heading("leads", "Policy", ...places.map((at) => percent(at, 0)), ...(own ? [["No budget", "at its own ratio"]] : []));
  const policies = data.policies.filter((_, i) => rows.some((row) => row[0] === i));
  byId("leads").tBodies[0].replaceChildren(...policies.map((policy) => {
    const mine = rows.filter((row) => data.policies[row[0]] === policy);
    const alone = free(data.policies.indexOf(policy));
    const cells = places.map((at) => mine.find((row) => !alone && row[1] === at)).map((row) => (row ? leadCell(row, false) : cell(ABSENT)));
    if (own) cells.push(alone ? leadCell(mine[0], true) : cell(ABSENT));
    return html("tr", policy.family === data.floor ? { class: "reference" } : {}, name(policy), ...cells);
  }));
}

// ---- controls
function setBudget(at) {
  const { low, high, step } = domain();
  state.at = Math.min(Math.max(low + Math.round((at - low) / step) * step, low), high);
  const slider = byId("budget");
  slider.max = Math.round((high - low) / step);
  slider.value = Math.round((state.at - low) / step);
  slider.setAttribute("aria-valuetext", cost(state.at));
  byId("budget-text").textContent = cost(state.at);
  drawCursor();
  fillReadings();
}
function redraw(at) {
  drawChart();
  if (byId("bound-note")) byId("bound-note").hidden = !onBoundAxis();
  fillFront();
  fillLeads();
  setBudget(at);
}
function start() {
  const { low, high } = domain();
  return state.axis === "requests" && high >= 0.2 ? 0.2 : low + 0.4 * (high - low);
}
function choices(id, options, change) {
  byId(id).closest("label").hidden = options.length < 2;
  byId(id).append(...options.map(([value, text]) => html("option", { value }, text)));
  byId(id).addEventListener("change", () => change(byId(id).value));
}
function boundKey(curve) {
  const line = { x1: 0, x2: 34, y1: 7, y2: 7, stroke: "#333b44", "stroke-width": 1.8, "stroke-dasharray": boundDash(curve) };
  return svg("svg", { class: "key", viewBox: "0 0 34 14", "aria-hidden": "true" }, svg("line", line));
}
function legendButton(one, picture) {
  const button = html("button", { type: "button", "aria-pressed": String(!state.hidden.has(one)) }, picture, html("span", {}, one.label));
  button.addEventListener("click", () => {
    if (!state.hidden.delete(one)) state.hidden.add(one);
    button.setAttribute("aria-pressed", String(!state.hidden.has(one)));
    redraw(state.at);
  });
  const fade = (on) => document.querySelectorAll("#chart g.line").forEach((line) => line.classList.toggle("away", on && line.dataset.policy !== one.label));
  const fades = lines.includes(one) ? [["pointerenter", true], ["pointerleave", false], ["focus", true], ["blur", false]] : [];
  for (const [event, on] of fades) button.addEventListener(event, () => fade(on && !state.hidden.has(one)));
  return button;
}
function fillLegend() {
  byId("legend").replaceChildren(...lines.map((one) => legendButton(one, key(one))), ...data.bounds.slice(state.bound, state.bound + 1).map((one) => legendButton(one, boundKey(one))));
}
choices("measure", data.measures.map((one) => [one.key, one.title]), (value) => { state.measure = value; redraw(state.at); });
choices("axis", data.axes.map((one) => [one.key, one.title]), (value) => { state.axis = value; redraw(start()); });
choices("bound", data.bounds.map((one, i) => [i, one.label]), (value) => { state.bound = Number(value); fillLegend(); redraw(state.at); });
choices("against", data.policies.map((one) => [one.label, one.label]), (value) => { state.against = value; fillLeads(); });
byId("against").value = state.against;
byId("budget").addEventListener("input", () => { const { low, step } = domain(); setBudget(low + Number(byId("budget").value) * step); });
byId("toggle-all").addEventListener("click", () => {
  const all = state.hidden.size === 0;
  state.hidden = new Set(all ? lines : []);
  byId("toggle-all").textContent = all ? "Show all" : "Hide all";
  fillLegend();
  redraw(state.at);
});
byId("live").hidden = false;
fillLegend();
redraw(start());
let width = window.innerWidth;
window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; redraw(state.at); } });
