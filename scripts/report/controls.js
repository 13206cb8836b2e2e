// Controls of the page: they choose what is drawn.

const metricsOf = (group) => [...new Set(data.benchmarks.flatMap((each) => each.charts)
  .filter((chart) => chart.group === group).map((chart) => chart.metric))];

function fillControls() {
  const groups = [...new Set(data.benchmarks.flatMap((each) => each.charts.map((chart) => chart.group)))];
  at("metric").replaceChildren(...groups.map((group) => element(
    "optgroup", { label: data.titles[group] }, ...metricsOf(group).map((name) => new Option(name)),
  )));
  at("metric").value = data.first;
  at("methods").append(...data.methods.map(
    (method) => checkbox("method", method.name, swatch(method), " ", method.name),
  ));
  at("benchmarks").append(...data.benchmarks.map((each) => checkbox("benchmark", each.name, each.name)));
  at("benchmarks").hidden = data.benchmarks.length === 1;
}

function fillLayers() {
  const charts = data.benchmarks.flatMap((each) => each.charts)
    .filter((chart) => chart.metric === at("metric").value);
  const layers = [...new Set(charts.map((chart) => chart.layer))].filter((layer) => layer);
  const first = layers.includes("total") ? "total" : layers[layers.length - 1];
  const many = layers.length > MAX_LAYERS_AT_FIRST || layers.includes("total");
  options(at("layer"), layers.length > 1 ? [EVERY, ...layers] : layers, many ? first : EVERY);
  at("layer").parentElement.hidden = layers.length < 2;
  at("caption").textContent = [...new Set(data.benchmarks.flatMap((each) => each.charts
    .filter((chart) => charts.includes(chart)).map((chart) => each.captions[chart.group])))].join(" ");
}

async function draw() {
  const show = { seeds: at("seeds").checked, intervals: at("intervals").checked };
  const [metric, layer, width] = [at("metric").value, at("layer").value, Number(at("smoothing").value)];
  const [methods, names] = [checked("method"), checked("benchmark")];
  const several = data.benchmarks.length > 1;
  const figures = data.benchmarks.filter((each) => names.includes(each.name)).flatMap((each) =>
    each.charts.filter((chart) => chart.metric === metric)
      .filter((chart) => !chart.layer || layer === EVERY || chart.layer === layer)
      .map((chart) => {
        const lines = drawn(chart, each.positions, methods, width);
        const title = [chart.metric, chart.layer].filter((part) => part).join(", ");
        return [{ ...chart, title: several ? `${each.name}: ${title}` : title }, lines];
      })
      .filter(([, lines]) => lines.some((line) => line.rows.length)));
  const before = views;
  at("charts").replaceChildren();
  views = figures.map(([chart, lines]) => figure(at("charts"), chart, lines, show));
  if (!figures.length) at("charts").append(element("p", {}, "Nothing to draw: choose a method and a benchmark."));
  views.push(...drawProfile(methods, show));
  (await Promise.all(before)).forEach((view) => view.finalize());
  await Promise.all(views);
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
}

// ---- all benchmarks, and maps of settings ----------------------------------------------------------

function drawProfile(methods, show) {
  if (!data.profile) return [];
  const lines = data.profile.lines.filter((line) => methods.includes(line.method)).map((line) => ({
    ...line,
    rows: data.profile.positions.map((x, i) => ({
      x, label: line.label, values: [], mean: line.mean[i], low: line.low[i], high: line.high[i],
    })),
  }));
  at("profile").replaceChildren();
  const chart = {
    title: "performance profile", axis: "score", label: "runs above the score (%)", decimals: 0,
    marks: [], top: 100, bottom: 0, zero: true,
  };
  return lines.length ? [figure(at("profile"), chart, lines, { ...show, seeds: false })] : [];
}

function mapSpec(map, panel) {
  const x = { field: "column", type: "ordinal", title: map.column, axis: { labelAngle: 0 } };
  const y = { field: "row", type: "ordinal", title: map.row, sort: "descending" };
  const [low, high] = map.domain;
  const color = {
    field: "value", type: "quantitative", title: map.label,
    scale: { scheme: "cividis", domain: [low, high > low ? high : low + 1] },
  };
  const readable = { condition: { test: `datum.value > ${(low + high) / 2}`, value: "black" }, value: "white" };
  const shown = panel.cells.filter((each) => each.value !== null).map(
    (each) => ({ ...each, text: text(each.value, map.decimals) }),
  );
  const written = (field, dy) => ({
    data: { values: shown }, mark: { type: "text", dy, fontSize: 12 },
    encoding: { x, y, text: { field }, color: readable },
  });
  return {
    width: "container", height: 46 * new Set(panel.cells.map((cell) => cell.row)).size, config: CONFIG,
    title: panel.title.some(Boolean) ? { text: panel.title, anchor: "start" } : undefined,
    layer: [
      {
        data: { values: panel.cells }, mark: { type: "rect" },
        encoding: { x, y, color, tooltip: ["row", "column", "value", "note"].map((field) => ({ field })) },
      },
      {
        data: { values: panel.cells.filter((each) => each.best) },
        mark: { type: "rect", filled: false, stroke: "#D55E00", strokeWidth: 4 }, encoding: { x, y },
      },
      written("text", -6), written("note", 11),
    ],
  };
}

function drawMaps() {
  return data.benchmarks.filter((each) => each.map).flatMap((each) => each.map.panels.map((panel) => embed(
    at(`map-${each.name}`), [each.map.title, ...panel.title].filter(Boolean).join(", "), mapSpec(each.map, panel),
  )));
}

// ---- start ---------------------------------------------------------------------------------------

document.querySelectorAll("table").forEach((table) => table.tHead && sortable(table));
fillControls();
fillLayers();
at("metric").addEventListener("change", fillLayers);
at("controls").addEventListener("change", draw);
drawMaps();
draw();
