// Figures of the page: what is drawn of the data, by Vega-Lite.
const data = JSON.parse(document.getElementById("report-data").textContent);
const at = (id) => document.getElementById(id);
const EVERY = "every layer";
const MAX_LAYERS_AT_FIRST = 4;
const POINTS_PER_LINE = 7;
const MAX_TICKS = 6;

// ---- elements ----------------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function options(select, values, chosen) {
  select.replaceChildren(...values.map((value) => new Option(value, value, false, value === chosen)));
}

function checkbox(name, value, ...label) {
  const box = element("input", { type: "checkbox", name, value, checked: true });
  return element("label", {}, box, " ", ...label);
}

function checked(name) {
  return [...document.querySelectorAll(`input[name="${name}"]:checked`)].map((box) => box.value);
}

function download(name, type, text) {
  const link = element("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function swatch(style) {
  const dash = style.dash.join(" ");
  const holder = element("span", { className: "swatch" });
  holder.innerHTML = `<svg width="30" height="8" aria-hidden="true"><line x1="0" x2="30" y1="4" y2="4"
    stroke="${style.colour}" stroke-width="3" stroke-dasharray="${dash}"/></svg>`;
  return holder;
}

// ---- statistics: as in statistics.bands ----------------------------------------------------------

/** Centred moving average over `width` rows; a run without a value keeps none. */
function smoothed(values, width) {
  const reach = (width - 1) / 2;
  return values.map((value, i) => {
    if (value === null || width === 1) return value;
    const near = values.slice(Math.max(0, i - reach), i + reach + 1).filter((each) => each !== null);
    return near.reduce((sum, each) => sum + each, 0) / near.length;
  });
}

/** Mean over runs with the ends of its t interval, which is clipped where it is one of shares. */
function estimate(values, share) {
  const known = values.filter((value) => value !== null);
  const count = known.length;
  if (count === 0) return { mean: null, low: null, high: null, count };
  const mean = known.reduce((sum, each) => sum + each, 0) / count;
  if (count === 1) return { mean, low: null, high: null, count };
  const squares = known.reduce((sum, each) => sum + (each - mean) ** 2, 0);
  const reach = (data.t[count] * Math.sqrt(squares / (count - 1))) / Math.sqrt(count);
  const clip = (end) => (share ? Math.min(100, Math.max(0, end)) : end);
  return { mean, low: clip(mean - reach), high: clip(mean + reach), count };
}

/** Lines of a chart as they are drawn: rows of a position with its estimate and the values of all runs. */
function drawn(chart, positions, methods, width) {
  return chart.lines
    .filter((line) => methods.includes(line.method))
    .map((line) => {
      const runs = line.runs.map((values) => smoothed(values, width));
      const rows = positions[line.positions].map((x, i) => {
        const values = runs.map((run) => run[i]);
        return { x, label: line.label, values, ...estimate(values, chart.share) };
      });
      return { ...line, rows };
    });
}

// ---- charts ------------------------------------------------------------------------------------

const CONFIG = {
  aria: false,
  background: "transparent",
  font: "system-ui, sans-serif",
  view: { stroke: null },
  mark: { aria: false },
  axis: {
    labelColor: "currentColor", titleColor: "currentColor", domainColor: "currentColor",
    tickColor: "currentColor", gridColor: "currentColor", gridOpacity: 0.13, labelFontSize: 11,
    titleFontSize: 12, titleFontWeight: "normal",
  },
  legend: { labelColor: "currentColor", titleColor: "currentColor", labelFontSize: 12, labelLimit: 400 },
};

function text(value, decimals) {
  return value === null ? "—" : value.toFixed(decimals);
}

function interval(row, decimals) {
  return row.low === null ? "" : ` [${text(row.low, decimals)}, ${text(row.high, decimals)}]`;
}

/** Limits of the vertical axis: as in panels._draw_panel. */
function limits(chart, lines, show) {
  const values = lines.flatMap((line) => line.rows.flatMap((row) => [
    row.mean, ...(show.intervals ? [row.low, row.high] : []), ...(show.seeds ? row.values : []),
  ])).filter((value) => value !== null);
  if (!values.length) return [0, 1];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = 0.05 * (high - low) || 0.05 * Math.abs(high) || 0.5;
  [low, high] = [low - margin, high + margin];
  if (chart.top !== null) high = Math.min(high, 1.03 * chart.top);
  if (chart.bottom !== null) low = Math.max(low, chart.bottom);
  if (chart.zero) [low, high] = [0, high > 0 ? high : 1];
  return low < high ? [low, high] : [low - 0.5, low + 0.5];
}

function styleOf(line) {
  return data.methods.find((method) => method.name === line.method);
}

function styles(lines) {
  const found = lines.map(styleOf);
  const domain = lines.map((line) => line.label);
  const range = (key) => ({ domain, range: found.map((style) => style[key]) });
  const legend = {
    orient: "top", title: null, columns: Math.max(1, Math.min(lines.length, 3)), symbolSize: 90,
    symbolOpacity: 1,
  };
  return {
    color: { field: "label", type: "nominal", scale: range("colour"), legend },
    shape: { field: "label", type: "nominal", scale: range("shape"), legend },
  };
}

/** Rows that are shown under the pointer: one for each position in order, with the values of all lines. */
function tips(chart, lines) {
  const rows = new Map();
  lines.forEach((line, i) => line.rows.forEach((row) => {
    if (!rows.has(row.x)) rows.set(row.x, { x: row.x });
    const seeds = row.count === undefined ? "" : `, ${row.count} seed${row.count === 1 ? "" : "s"}`;
    const value = text(row.mean, chart.decimals) + interval(row, chart.decimals);
    rows.get(row.x)[`line${i}`] = value + (row.mean === null ? "" : seeds);
  }));
  return [...rows.values()].sort((one, other) => one.x - other.x);
}

/** The same, each with the column from half way to the position before it to half way to the next. */
function columns(rows) {
  const half = (i, j) => (rows[j] ? (rows[i].x + rows[j].x) / 2 : rows[i].x);
  return rows.map((row, i) => ({ ...row, from: half(i, i - 1), to: half(i, i + 1) }));
}

function lineSpec(chart, lines, show, height = 260) {
  const { color, shape } = styles(lines);
  const positions = lines.flatMap((line) => line.rows.map((row) => row.x));
  const isWhole = positions.every(Number.isInteger);
  const furthest = Math.max(0, ...positions);
  const scale = { domain: [Math.min(...positions), furthest], nice: false, zero: false };
  if (scale.domain[0] === furthest) scale.domain = [furthest - 1, furthest + 1];
  const format = furthest >= 10000 ? "~s" : isWhole ? "d" : "~g";
  // Of few tasks, each has a tick; none is between two.
  const few = isWhole && furthest - scale.domain[0] <= MAX_TICKS;
  const ticks = few ? { values: [...new Set(positions)] } : { tickCount: MAX_TICKS };
  const axis = { ...ticks, format, grid: !chart.marks.length };
  const x = { field: "x", type: "quantitative", title: chart.axis, scale, axis };
  const y = {
    field: "mean", type: "quantitative", title: chart.label,
    scale: { domain: limits(chart, lines, show), nice: false, zero: false },
  };
  const means = lines.flatMap((line) => line.rows.map(({ values, ...row }) => row));
  const points = lines.flatMap((line, i) => {
    const every = Math.max(1, Math.floor(line.rows.length / POINTS_PER_LINE));
    const first = Math.floor((i * every) / lines.length);
    return line.rows.filter((_, j) => j % every === first % every).map(({ values, ...row }) => row);
  }).filter((row) => row.mean !== null);
  const layers = [];
  if (chart.marks.length) {
    layers.push({
      data: { values: chart.marks.map((mark) => ({ x: mark })) },
      mark: { type: "rule", strokeDash: [2, 3], color: "currentColor", opacity: 0.35 }, encoding: { x },
    });
  }
  if (show.intervals) {
    layers.push({
      data: { values: means.filter((row) => row.low !== null) },
      mark: { type: "area", opacity: 0.16, clip: true },
      encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color },
    });
  }
  if (show.seeds) layers.push(...seedLayers(lines, x, y, color));
  layers.push(
    ...lines.map((line) => ({
      data: { values: means.filter((row) => row.label === line.label) },
      mark: { type: "line", strokeWidth: 2, strokeDash: styleOf(line).dash, clip: true },
      encoding: { x, y, color },
    })),
    {
      data: { values: points }, mark: { type: "point", filled: true, size: 45, opacity: 1 },
      encoding: { x, y, color, shape },
    },
    {
      data: { values: columns(tips(chart, lines)) },
      params: [{ name: "hover", select: { type: "point", on: "pointerover", clear: "pointerout" } }],
      mark: { type: "rect", color: "currentColor", cursor: "crosshair", clip: true },
      encoding: {
        x: { ...x, field: "from" }, x2: { field: "to" },
        opacity: { condition: { param: "hover", empty: false, value: 0.1 }, value: 0 },
        tooltip: [
          { field: "x", type: "quantitative", title: chart.axis },
          ...lines.map((line, i) => ({ field: `line${i}`, type: "nominal", title: line.label })),
        ],
      },
    },
  );
  return { width: "container", height, config: CONFIG, layer: layers };
}

function seedLayers(lines, x, y, color) {
  const seeds = lines.flatMap((line) => line.seeds.flatMap((seed, i) => line.rows.map(
    (row) => ({ x: row.x, label: line.label, seed: `${line.label} ${seed}`, mean: row.values[i] }),
  )));
  const ends = lines.flatMap((line) => line.diverged.flatMap((diverged, i) => {
    const known = line.rows.filter((row) => row.values[i] !== null);
    const last = known[known.length - 1];
    if (!diverged || !line.rows.length) return [];
    // Of a run that diverged at its first row the cross is on the axis, as in panels._draw_seeds.
    const [x, mean] = last ? [last.x, last.values[i]] : [line.rows[0].x, y.scale.domain[0]];
    return [{ x, label: line.label, mean }];
  }));
  return [
    {
      data: { values: seeds }, mark: { type: "line", strokeWidth: 0.8, opacity: 0.4, clip: true },
      encoding: { x, y, color, detail: { field: "seed" } },
    },
    {
      data: { values: ends }, mark: { type: "text", text: "✕", fontSize: 15, fontWeight: "bold" },
      encoding: { x, y, color },
    },
  ];
}

function csv(chart, lines) {
  const seeds = [...new Set(lines.flatMap((line) => line.seeds ?? []))].sort((a, b) => a - b);
  const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const cell = (value) => (value === null || value === undefined ? "" : quoted(String(value)));
  const header = ["method", chart.axis, "mean", "low", "high", ...seeds.map((seed) => `seed ${seed}`)];
  const rows = lines.flatMap((line) => line.rows.map((row) => [
    line.label, row.x, row.mean, row.low, row.high,
    ...seeds.map((seed) => row.values[line.seeds.indexOf(seed)]),
  ]));
  return [header, ...rows].map((row) => row.map(cell).join(",") + "\n").join("");
}

function valuesTable(chart, lines) {
  const head = element("tr", {}, ...[chart.axis, ...lines.map((line) => line.label)].map(
    (name) => element("th", { scope: "col" }, name),
  ));
  const body = tips(chart, lines).map((row) => element(
    "tr", {}, element("th", { scope: "row" }, String(row.x)),
    ...lines.map((_, i) => element("td", {}, row[`line${i}`] ?? "—")),
  ));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  sortable(table);
  const holder = element("div", { className: "scroll", tabIndex: 0 }, table);
  holder.setAttribute("role", "group");
  holder.setAttribute("aria-label", `Values of ${chart.title}`);
  return holder;
}

let views = [];

async function embed(holder, title, spec) {
  const plot = element("div", { className: "plot" });
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `${title}; its values are in the table below it`);
  holder.append(plot);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const { view } = await vegaEmbed(plot, spec, {
    mode: "vega-lite", renderer: "svg", actions: false, tooltip: { theme: dark ? "dark" : "light" },
  });
  return view;
}

/** Add a figure of one chart, with its downloads and the table of its values; return its view. */
function figure(parent, chart, lines, show) {
  const name = chart.title.replaceAll(/[^\w-]+/g, "_");
  const plots = element("div");
  const made = element("figure", { className: "chart" }, element("figcaption", {}, chart.title), plots);
  parent.append(made);
  const view = embed(plots, chart.title, lineSpec(chart, lines, show));
  const save = (label, action) => {
    const button = element("button", { type: "button" }, label);
    button.setAttribute("aria-label", `${label} of ${chart.title}`);
    button.addEventListener("click", action);
    return button;
  };
  const values = element("details", {}, element("summary", {}, "Values"));
  values.addEventListener("toggle", () => {
    if (values.open && values.children.length === 1) values.append(valuesTable(chart, lines));
  });
  made.append(element("div", { className: "downloads" },
    save("SVG", async () => download(`${name}.svg`, "image/svg+xml", await (await view).toSVG())),
    save("CSV", () => download(`${name}.csv`, "text/csv", csv(chart, lines))),
  ), values);
  return view;
}
