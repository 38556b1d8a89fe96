// The ladder on the page: a waterfall for each panel, from the whole prompt down to what was found cached.
"use strict";
const MOST_LADDERS = 24;  // drawn at once; the table has all
const LOSS = "#D55E00", GAIN = "#009E73", LEFT = "#0072B2";

const isLadder = () => $("measure").value === "steps";

// Which of the ladders are shown: of all requests, or of the parts that have a panel each.
function ladderRows(rows) {
  const split = $("split").value, by = PARTS.includes(split) ? split : "all";
  return rows.filter(row => row.steps?.by === by);
}

// One ladder for each panel and policy: a row's own, or the mean of several seeds, with their range.
function laddersOf(rows) {
  const policies = distinct(rows.map(row => row.policy)), merged = new Map();
  for (const row of ladderRows(rows)) {
    const part = row.steps.by === "turn" ? `turn ${row.steps.value}` : row.steps.value;
    const name = [panelOf(row, part), ...(policies.length > 1 ? [row.policy] : [])].filter(text => text !== "").join(", ");
    merged.set(name, [...(merged.get(name) ?? []), row]);
  }
  return [...merged].map(([name, of]) => {
    const total = of.reduce((sum, row) => sum + row.steps.tokens, 0);
    const shares = key => of.map(row => (row.steps.lost[key] ?? 0) / row.steps.of);
    let left = 1;
    const lost = Object.keys(of[0].steps.lost).map(key => {
      const values = shares(key), share = mean(values), from = left;
      left = Math.round((left - share) * 1e9) / 1e9 + 0;  // what is nothing is no -0.0
      return {key, share, from, to: left, low: Math.min(...values), high: Math.max(...values), kind: share < 0 ? "gain" : "loss"};
    });
    const ends = [{key: "prompt", share: 1, from: 0, to: 1, kind: "left"}, {key: "found cached", share: left, from: 0, to: left, kind: "left"}];
    return {name, of, tokens: total / of.length, requests: mean(of.map(row => row.steps.requests)), steps: [ends[0], ...lost, ends[1]]};
  });
}

function drawLadders(rows) {
  const ladders = laddersOf(rows);
  const least = ladders.map(ladder => ladder.tokens).sort((a, b) => b - a)[MOST_LADDERS - 1] ?? 0;
  const drawn = ladders.filter(ladder => ladder.tokens >= least).slice(0, MOST_LADDERS);
  const low = Math.min(0, ...drawn.flatMap(ladder => ladder.steps.flatMap(step => [100 * step.from, 100 * step.to])));
  $("panels").className = drawn.length === 1 ? "one" : "";
  for (const ladder of drawn) {
    const chart = make("div", [], {class: "chart", role: "group", "aria-label": `the ladder ${ladder.name}`});
    $("panels").append(make("figure", ladder.name ? [make("figcaption", ladder.name), chart] : [chart]));
    const placed = ladder.steps.map(step => ({...step, text: describeStep(step, ladder)}));
    show(chart, ladderSpec(chart, placed, low), placed);
  }
  fillLadderTable(ladders);
  const some = drawn.length < ladders.length ? ` The ${drawn.length} of ${count(ladders.length)} with the most prompt tokens are drawn; the table has all.` : "";
  const gains = drawn.some(ladder => ladder.steps.some(step => step.kind === "gain")) ? " A hollow green bar with a minus is a step that gave tokens back." : "";
  $("caption").textContent = ladders.length ? `What each step takes from the prompt tokens, from all of them down to what was found cached.${gains}${some} ${runOf(ladders.flatMap(ladder => ladder.of))}` : "No rows for this choice.";
}

function fillLadderTable(ladders) {
  const words = key => key.replaceAll("_", " "), percent = step => step ? (100 * step.share).toFixed(2) : "";
  const keys = distinct(ladders.flatMap(ladder => ladder.steps.map(step => step.key)));
  const [ladder] = ladders;
  if (ladders.length === 1 && ladder.of.length === 1 && ladder.of[0].steps.negative) {  // as `vllm-sim explain` prints it
    const {negative, requests} = ladder.of[0].steps;
    const below = key => key in negative ? count(negative[key]) : data.steps[key] ? "never" : "";
    setTable(`${count(requests)} requests`, [["step", "prompt tokens", "%", "requests below 0"], ...ladder.steps.map(step => [words(step.key), count(Math.round(step.share * ladder.tokens)), percent(step), below(step.key)])]);
  } else setTable(ladders.length ? "share of the prompt tokens (%)" : "", !ladders.length ? [] : [
    ["step", ...ladders.map(one => one.name || "all requests")],
    ...keys.map(key => [words(key), ...ladders.map(one => percent(one.steps.find(step => step.key === key)))]),
    ["prompt tokens", ...ladders.map(one => count(Math.round(one.tokens)))],
    ["requests", ...ladders.map(one => count(Math.round(one.requests)))],
  ]);
}

// What all these rows have in common.
function runOf(rows) {
  const facts = row => ({trace: row.trace, policy: row.policy, capacity: share(row.at) !== null ? `${row.at} of the working set` : row.capacity === null ? row.at : `${count(row.capacity)} blocks in all`, "block size": `${count(row.block)} tokens`, ...row.facets});
  const same = Object.entries(facts(rows[0])).filter(([name, value]) => rows.every(row => facts(row)[name] === value));
  const seeds = distinct(rows.map(row => JSON.stringify(row.seed))).length;
  return `${seeds > 1 ? `Means of ${seeds} seeds. ` : ""}Of these: ${same.map(([name, value]) => `${name} ${value}`).join("; ")}.`;
}

function describeStep(step, ladder) {
  const [row] = ladder.of, isOne = ladder.of.length === 1, tokens = Math.round(ladder.tokens * Math.abs(step.share));
  const range = !isOne && step.low !== undefined ? ` (mean of ${ladder.of.length} seeds; ${(100 * step.low).toFixed(2)} to ${(100 * step.high).toFixed(2)})` : "";
  const gave = step.kind === "gain" ? "\ngave back what the steps before it had charged" : "";
  const negative = row.steps.negative?.[step.key];
  const below = isOne && negative !== undefined ? `\nbelow 0 in ${count(negative)} of ${count(row.steps.requests)} requests` : "";
  const words = data.steps[step.key] ? `\n${data.steps[step.key]}` : "";
  return `${step.key.replaceAll("_", " ")}${ladder.name ? `, ${ladder.name}` : ""}\n${(100 * step.share).toFixed(2)} % of the prompt tokens${range}: ${step.kind === "gain" ? "-" : ""}${count(tokens)}${words}${gave}${below}`;
}

function ladderSpec(chart, placed, low) {
  const steps = placed.map((step, place) => ({...step, step: step.key.replaceAll("_", " "), from: 100 * step.from, to: 100 * step.to, end: 100 * Math.max(step.from, step.to), label: (100 * step.share).toFixed(1), next: placed[place + 1]?.key.replaceAll("_", " ")}));
  const links = steps.slice(0, -1), width = chart.clientWidth, high = width < 500 ? 118 : 108;
  const y = {field: "step", type: "nominal", sort: null, title: null, scale: {domain: steps.map(step => step.step)}, axis: {ticks: false, domain: false, labelPadding: 6}};
  const x = {field: "from", type: "quantitative", title: "share of the prompt tokens (%)", scale: {domain: [low, high], nice: false}, axis: {values: [0, 25, 50, 75, 100], format: "d"}};
  const kinds = ["left", "loss", "gain"], colors = [LEFT, LOSS, GAIN];
  const color = range => ({field: "kind", type: "nominal", legend: null, scale: {domain: kinds, range}});
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    width, height: 26 * steps.length + 46, autosize: {type: "fit", contains: "padding"}, padding: {left: 2, right: 4, top: 4, bottom: 2},
    layer: [
      {name: "links", data: {values: links}, mark: {type: "rule", color: "#888", strokeWidth: 0.8, aria: false}, encoding: {x: {...x, field: "to"}, y, y2: {field: "next"}}},
      {name: "bars", data: {values: steps}, mark: {type: "bar", height: {band: 0.72}, strokeWidth: 1.5, aria: false}, encoding: {x, x2: {field: "to"}, y, fill: color([LEFT, LOSS, "#ffffff"]), stroke: color(colors)}},
      {data: {values: steps}, mark: {type: "text", align: "left", dx: 5, aria: false}, encoding: {x: {...x, field: "end"}, y, text: {field: "label"}}},
      {name: "targets", data: {values: steps.map(step => ({...step, text: step.text.replaceAll("\n", ", ")}))}, mark: {type: "bar", height: {band: 1}, fill: "transparent", stroke: "transparent"}, encoding: {x: {...x, datum: low, field: undefined}, x2: {datum: high}, y, description: {field: "text", type: "nominal"}}},
    ],
    config: CHART_CONFIG,
  };
}

// What a file of rows says of their ladders: the names of the columns, then a line for each row.
function ladderLines(rows) {
  const names = distinct(rows.flatMap(row => Object.keys(row.steps.lost)));
  const head = rows.length ? ["by", "value", "requests", "prompt_tokens", ...names.map(name => `${name}_share`)] : [];
  return [head, ...rows.map(({steps}) => [steps.by, steps.value, steps.requests, steps.tokens, ...names.map(name => name in steps.lost ? steps.lost[name] / steps.of : "")])];
}
