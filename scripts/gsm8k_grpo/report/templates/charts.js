// The charts of the page. The data attributes of a figure say what it shows. It is drawn when it comes near the window.

const HEIGHTS = { panel: 150, curve: 300, cost: 300 };

// The figures of training are unpacked at once, because printing needs all of them.
const trainingData = new Map();
const packed = canUnpack ? new Set(all("figure[data-panel]").map((figure) => figure.dataset.run)) : [];
const ready = Promise.all([...packed].map(async (id) => trainingData.set(id, await unpack(id))));

const CHARTS = {
  curve(figure) {
    const curve = page.curves[figure.dataset.run];
    draw(figure, {
      x: curve.x,
      xLabel: "step",
      series: curve.series,
      marks: curve.chosen === null ? [] : [curve.chosen],
      range: percentRange(curve.series),
      height: HEIGHTS.curve,
      unit: " %",
    });
  },

  panel(figure) {
    const { columns, panels, starts } = trainingData.get(figure.dataset.run);
    const panel = panels.find((each) => each.key === figure.dataset.panel);
    const isOff = (kind) => !find(`input[data-kind=${kind}]`, figure.closest(".training")).checked;
    const series = [];
    panel.series.forEach(({ column, label }, position) => {
      const values = columns[column];
      const name = `--series-${position % 8}`;
      series.push({ label, values, colour: name, faint: true, hidden: () => isOff("raw") });
      series.push({ label, values: smoothed(values), colour: name, of: series.length - 1, hidden: () => isOff("smoothed") });
    });
    const found = panel.series.flatMap(({ column }) => columns[column]).filter((value) => value !== null);
    const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
    // The first step compiles and would flatten all others.
    const top = 2 * Math.max(...panel.series.map(({ column }) => median(columns[column].filter((value) => value !== null))));
    const plot = draw(figure, {
      x: columns.step,
      xLabel: "step",
      series,
      marks: starts,
      range: panel.key === "seconds" && top > 0 ? [0, top] : Math.min(...found) === Math.max(...found) ? [Math.min(0, found[0]), Math.max(0, found[0]) || 1] : undefined,
      group: figure.dataset.run,
      height: HEIGHTS.panel,
    });
    all("input[data-kind]", figure.closest(".training")).forEach((box) =>
      box.addEventListener("change", () => {
        const boxes = all(".legend input", figure);
        series.forEach((each, position) => {
          const own = boxes[panel.series.findIndex(({ label }) => label === each.label)];
          plot.setSeries(position + 1, { show: (own?.checked ?? true) && !each.hidden() });
        });
      }),
    );
  },

  cost(figure) {
    const chosen = () => find("input[name=cost]:checked", figure).value;
    // There are eight colours. If there are more runs, the runs of a recipe share a colour.
    const colourGroup = (each) => (page.costs.length > 8 ? each.recipe : each.name);
    const groups = [...new Set(page.costs.map(colourGroup))];
    let plot = null;
    const again = () => {
      if (plot) {
        charts.delete(plot);
        plot.destroy();
        find(".legend", figure).replaceChildren();
      }
      const points = page.costs.filter((each) => each[chosen()] !== null).sort((a, b) => a[chosen()] - b[chosen()]);
      const x = points.map((each) => each[chosen()]);
      const series = points.map((each, position) => {
        const only = (value) => points.map((_, at) => (at === position ? value : null));
        const name = `--series-${groups.indexOf(colourGroup(each)) % 8}`;
        return { label: each.name, values: only(each.value), low: only(each.low), high: only(each.high), colour: name, line: false };
      });
      plot = draw(figure, {
        x,
        xLabel: chosen(),
        axisLabel: `${chosen()} of training`,
        series,
        range: percentRange(series),
        height: HEIGHTS.cost,
        unit: " %",
      });
      plot.setScale("x", { min: 0, max: 1.08 * Math.max(...x, 1) });
    };
    all("input[name=cost]", figure).forEach((box) => box.addEventListener("change", again));
    again();
  },
};

const started = new Set();

function start(figure) {
  if (started.has(figure) || (figure.dataset.panel && !trainingData.has(figure.dataset.run))) return;
  started.add(figure);
  CHARTS[figure.dataset.chart](figure);
}

const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => start(entry.target)),
  { rootMargin: "400px" },
);
// The charts that are near come first. The others follow while nothing else happens: a screenshot of the whole page has
// them all.
ready.then(() => {
  const waiting = all("figure[data-chart]");
  const idle = window.requestIdleCallback ?? ((task) => setTimeout(task, 100));
  const draw = () => {
    if (!waiting.length) return;
    start(waiting.shift());
    idle(draw);
  };
  waiting.forEach((figure) => near.observe(figure));
  idle(draw);
});
