// Draws one chart with uPlot.

const charts = new Map(); // each chart with the function that gives its size
let printing = false;

// An element that nobody sees: as its colour, light-dark() is the colour of the theme.
const probe = element("i");
probe.hidden = true;
document.body.append(probe);
const colour = (name) => {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
};

// The labels of an axis in one common unit: thousands, millions, or a power of ten if all values are small.
function ticks(values, unit = "") {
  const top = Math.max(...values.map(Math.abs));
  const plain = (value, ends) => (value === 0 ? "0" : String(Number(value.toPrecision(6))).replace("-", "−") + ends);
  if (top >= 1e4) {
    const [size, name] = top >= 1e9 ? [1e9, "G"] : top >= 1e6 ? [1e6, "M"] : [1e3, "k"];
    return values.map((value) => plain(value / size, name));
  }
  if (top > 0 && top < 1e-2) {
    const power = Math.floor(Math.log10(top));
    return values.map((value) => plain(value / 10 ** power, `·${tenTo(power)}`));
  }
  return values.map((value) => plain(value, "") + unit);
}

// The mean over a twentieth of the run around each step, like the SVG plots.
function smoothed(values) {
  const window = Math.max(1, Math.floor(values.length / 20));
  const before = Math.floor(window / 2);
  return values.map((_, index) => {
    const near = values.slice(Math.max(0, index - before), index - before + window);
    const there = near.filter((value) => value !== null);
    return there.length ? there.reduce((sum, value) => sum + value, 0) / there.length : null;
  });
}

const FONT = "12px system-ui, sans-serif";

function axis(scale, more = {}) {
  return {
    scale,
    stroke: () => colour("--soft"),
    grid: { stroke: () => colour("--line"), width: 1 },
    ticks: { stroke: () => colour("--line"), width: 1, size: 4 },
    font: FONT,
    values: (_, found) => ticks(found),
    ...more,
  };
}

// Draws error bars of each shown series with `low` and `high`, and a dashed line at each mark.
function drawOver(series, marks) {
  return (plot) => {
    const { ctx } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    ctx.clip();
    ctx.lineWidth = 1.5 * ratio;
    series.forEach((each, index) => {
      if (!each.low || !plot.series[index + 1].show) return;
      ctx.strokeStyle = colour(each.colour);
      plot.data[0].forEach((x, at) => {
        if (each.low[at] === null || each.high[at] === null || each.values[at] === null) return;
        const left = plot.valToPos(x, "x", true);
        ctx.beginPath();
        for (const end of [each.low[at], each.high[at]]) {
          const top = plot.valToPos(end, "y", true);
          ctx.moveTo(left - 3 * ratio, top);
          ctx.lineTo(left + 3 * ratio, top);
        }
        ctx.moveTo(left, plot.valToPos(each.low[at], "y", true));
        ctx.lineTo(left, plot.valToPos(each.high[at], "y", true));
        ctx.stroke();
      });
    });
    ctx.setLineDash([4 * ratio, 4 * ratio]);
    ctx.strokeStyle = colour("--text");
    for (const mark of marks) {
      const left = plot.valToPos(mark, "x", true);
      ctx.beginPath();
      ctx.moveTo(left, plot.bbox.top);
      ctx.lineTo(left, plot.bbox.top + plot.bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };
}

// The whole range of x has some room at its ends; a zoomed part has none.
function padded(x) {
  const [first, last] = [x[0], x[x.length - 1]];
  const room = (last - first || 1) / 50;
  return (_, low, high) => (low === first && high === last ? [first - room, last + room] : [low, high]);
}

// A scale in per cent that holds all intervals; it is the whole scale if they are far apart.
function percentRange(series) {
  const ends = series.flatMap((each) => [...each.low, ...each.high]).filter((value) => value !== null);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  return high - low > 50 ? [0, 102] : [Math.max(0, Math.floor(low - 2)), high > 98 ? 102 : Math.ceil(high + 2)];
}

// Positions of the labels of a scale in per cent. The scale leaves room above 100, which gets no label.
function percentSplits(plot, _, low, high) {
  const wanted = (high - low) / Math.max(2, plot.bbox.height / devicePixelRatio / 32);
  const step = [0.5, 1, 2, 5, 10, 20, 25, 50].find((each) => each >= wanted) ?? 50;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(Math.min(100, high) / step) - first + 1 }, (_, index) => (first + index) * step);
}

// Draws one chart into `figure`. Each series has a checkbox, which also shows its value under the cursor.
// series: {label, values, colour, low, high, line, faint, of}; a series with `of` follows the series of that index.
function draw(figure, { x, xLabel, axisLabel, series, marks = [], range, group, height, unit = "" }) {
  const area = find(".plot", figure);
  const legend = find(".legend", figure);
  const at = find(".at", figure);
  const alone = series.filter((each) => each.of === undefined).length === 1;
  const outputs = series.map((each, index) => {
    if (each.of !== undefined) return null;
    const output = element("span", "value");
    if (alone) {
      // The title names a single series.
      legend.append(output);
      return output;
    }
    const label = element("label", "key");
    const box = element("input");
    box.type = "checkbox";
    box.checked = true;
    const swatch = element("span", "swatch");
    swatch.style.background = `var(${each.colour})`;
    label.append(box, swatch, element("span", "", each.label), output);
    legend.append(label);
    box.addEventListener("change", () => {
      series.forEach((other, position) => {
        if (position === index || other.of === index) plot.setSeries(position + 1, { show: box.checked && !other.hidden?.() });
      });
    });
    return output;
  });
  const read = (plot) => {
    const index = plot.cursor.idx;
    const none = index === null || index === undefined || plot.cursor.left < 0;
    at.textContent = none ? "" : `${xLabel} ${short(x[index])}`;
    outputs.forEach((output, position) => {
      if (!output) return;
      const each = series[position];
      const value = none ? null : each.values[index];
      const ends = each.low && value !== null && each.low[index] !== null;
      const text = (number) => (unit ? number.toFixed(1) : short(number)); // per cent like the tables
      output.textContent =
        none || value === null ? "" : `${text(value)}${unit}${ends ? ` (${text(each.low[index])}–${text(each.high[index])})` : ""}`;
    });
  };
  // A panel fills the height of its row. Printed charts are drawn about as wide as they appear on paper, so that letters
  // keep their size.
  const size = () =>
    printing
      ? { width: group ? 315 : 680, height }
      : { width: Math.max(200, area.clientWidth), height: group ? Math.max(height, area.clientHeight) : height };
  const plot = new uPlot(
    {
      ...size(),
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: true, y: false, dist: 8 },
        ...(group ? { sync: { key: group, scales: ["x", null] } } : {}),
        points: { size: 7 },
      },
      scales: { x: { time: false, range: padded(x) }, y: range ? { range } : {} },
      axes: [
        axis("x", { size: 28, ...(group ? {} : { label: axisLabel ?? xLabel, labelSize: 20, labelGap: 0, labelFont: FONT }) }),
        axis("y", { size: 58, space: 24, ...(unit ? { splits: percentSplits, values: (_, found) => ticks(found, unit) } : {}) }),
      ],
      series: [
        { label: xLabel },
        ...series.map((each) => ({
          label: each.label,
          show: !each.hidden?.(),
          stroke: () => (each.faint ? colour(each.colour).replace(")", ", 0.35)") : colour(each.colour)),
          width: each.line === false ? 0 : each.faint ? 1 : 2,
          paths: each.line === false ? () => null : undefined,
          points: { show: !each.faint && (each.line === false || x.length < (group ? 3 : 40)), size: each.line === false ? 11 : 7, fill: () => colour(each.hollow ? "--page" : each.colour) },
          spanGaps: true,
        })),
      ],
      hooks: { draw: [drawOver(series, marks)], setCursor: [read] },
    },
    [x, ...series.map((each) => each.values)],
    area,
  );
  charts.set(plot, size);
  new ResizeObserver(() => {
    const wanted = size();
    if (wanted.width !== plot.width || wanted.height !== plot.height) plot.setSize(wanted);
  }).observe(area);
  // A finger reads values as it moves sideways. Up and down it scrolls (`touch-action` in report.css).
  plot.over.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") plot.setCursor({ left: event.offsetX, top: event.offsetY }, true, true);
  });
  area.addEventListener("keydown", (event) => {
    const index = plot.cursor.idx ?? -1;
    const far = event.shiftKey ? 10 : 1;
    const wanted = { ArrowRight: index + far, ArrowLeft: index < 0 ? x.length - 1 : index - far, Home: 0, End: x.length - 1 }[event.key];
    if (wanted === undefined) return;
    event.preventDefault();
    const next = Math.min(x.length - 1, Math.max(0, wanted));
    plot.setCursor({ left: plot.valToPos(x[next], "x"), top: 10 }, true, true);
  });
  // Screen readers speak the values that the arrow keys read, of the focused chart only.
  area.addEventListener("focus", () => { find(".reading", figure).ariaLive = "polite"; });
  area.addEventListener("blur", () => {
    find(".reading", figure).ariaLive = "off";
    plot.setCursor({ left: -10, top: -10 }, true, true);
  });
  return plot;
}
