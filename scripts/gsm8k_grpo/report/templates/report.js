"use strict";
// The page's own script: charts with uPlot, the browser of completions, theme and copying. Foreign text (of models, data,
// settings) enters the page through textContent only; the page's policy forbids every other way.
(() => {
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const page = JSON.parse(find("script#page-data").textContent);

  function element(tag, className = "", text = "") {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== "") made.textContent = text;
    return made;
  }

  // ---- Packed data: base64 of gzip of JSON. The first use unpacks it.

  const canUnpack = "DecompressionStream" in window;
  const unpacked = new Map();

  function unpack(id) {
    if (!unpacked.has(id)) {
      const bytes = Uint8Array.from(atob(find(`script#${CSS.escape(id)}`).textContent), (sign) => sign.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(id, new Response(stream).text().then(JSON.parse));
    }
    return unpacked.get(id);
  }

  // The figures of training are unpacked at once, because printing needs all of them.
  const trainingData = new Map();
  const packed = canUnpack ? new Set(all("figure[data-panel]").map((figure) => figure.dataset.run)) : [];
  const ready = Promise.all([...packed].map(async (id) => trainingData.set(id, await unpack(id))));

  // ---- Theme.

  const root = document.documentElement;
  const charts = new Map(); // each chart with the function that gives its size
  // An element that nobody sees: as its colour, light-dark() is the colour of the theme.
  const probe = element("i");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const redraw = () => charts.forEach((_, plot) => plot.redraw());

  function setTheme(name) {
    if (name === "system") delete root.dataset.theme;
    else root.dataset.theme = name;
    redraw();
  }

  find("#theme").addEventListener("change", (event) => setTheme(event.target.value));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // ---- Charts. The data attributes of a figure say what it shows. It is drawn when it comes near the window.

  const HEIGHTS = { panel: 150, curve: 300, cost: 300 };
  let printing = false;

  function short(value) {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value) && Math.abs(value) < 1e12) return value.toLocaleString("en").replace("-", "−");
    if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5)) {
      return String(Number(value.toPrecision(4))).replace("-", "−");
    }
    const [digits, power] = value.toExponential(2).split("e");
    return `${digits.replace("-", "−")}·${tenTo(Number(power))}`;
  }

  const tenTo = (power) => `10${[...String(power)].map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign])).join("")}`;

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

  // Printing shows all charts on white and opens folded parts, except long ones that are in files anyway.
  let before = null;
  addEventListener("beforeprint", () => {
    before ??= { theme: root.dataset.theme ?? "system", folded: all("details.printed:not([open])") };
    before.folded.forEach((details) => { details.open = true; });
    printing = true;
    setTheme("light");
    all("figure[data-chart]").forEach(start);
    charts.forEach((size, plot) => plot.setSize(size()));
  });
  addEventListener("afterprint", () => {
    printing = false;
    charts.forEach((size, plot) => plot.setSize(size()));
    setTheme(before?.theme ?? "system");
    before?.folded.forEach((details) => { details.open = false; });
    before = null;
  });

  // ---- Completions, before and after.

  const SHOWN = 25;
  const total = (side) => side.w.reduce((sum, value) => sum + value, 0);
  // `which` is the trained model beside the base: its index in a row's `s`, one more than its index in `o`.
  const ORDERS = {
    rows: () => 0,
    worst: (a, b, which) => total(a.s[which]) - total(b.s[which]),
    best: (a, b, which) => total(b.s[which]) - total(a.s[which]),
    lost: (a, b, which) => total(a.s[which]) - total(a.s[0]) - (total(b.s[which]) - total(b.s[0])),
    longest: (a, b, which) => b.s[which].t - a.s[which].t,
  };

  // A completion with coloured tags, made of text nodes and spans; nothing is parsed.
  function coloured(text, tags) {
    const shown = element("pre", "completion");
    shown.dir = "ltr";
    const [reasonStart, reasonEnd, answerStart, answerEnd] = tags;
    let inside = "";
    let rest = text;
    while (rest) {
      const [next, tag] = tags.map((each) => [rest.indexOf(each), each]).filter(([index]) => index >= 0).sort((a, b) => a[0] - b[0])[0] ?? [rest.length, ""];
      if (next > 0) shown.append(element("span", inside, rest.slice(0, next)));
      if (tag) shown.append(element("span", "tag", tag));
      inside = { [reasonStart]: "reasoning", [answerStart]: "answer" }[tag] ?? ([reasonEnd, answerEnd].includes(tag) ? "" : inside);
      rest = rest.slice(next + tag.length);
    }
    return shown;
  }

  function side(row, which, settings) {
    const found = row.s[which];
    const column = element("div", "side");
    column.append(element("h5", "", settings.sides[which]));
    column.append(coloured(found.c, settings.tags));
    const facts = element("ul", "facts");
    page.readings.forEach((name, index) => {
      if (name.endsWith("cascade") && !settings.extraction.endsWith("cascade")) return;
      const own = name === settings.extraction ? " (this reading counts)" : "";
      const read = found.r[index] ?? "nothing";
      facts.append(element("li", found.k[index] ? "right" : "wrong", `${name.replaceAll("_", " ")} read ${read}, ${found.k[index] ? "right" : "wrong"}${own}`));
    });
    const [partial, format] = found.k.slice(page.readings.length);
    facts.append(element("li", partial ? "right" : "wrong", partial ? "within ±10 %" : "not within ±10 %"));
    facts.append(element("li", format ? "right" : "wrong", format ? "format kept" : "format not kept"));
    facts.append(element("li", found.l ? "wrong" : "", `${found.t} tokens${found.l ? ", cut at the limit" : ""}`));
    column.append(facts);
    return column;
  }

  function rewards(row, which, settings) {
    const shown = [0, which];
    const table = element("table", "rewards");
    const head = element("tr");
    ["reward", ...shown.map((position) => settings.sides[position])].forEach((text) => {
      const cell = element("th", "", text);
      cell.scope = "col";
      head.append(cell);
    });
    const top = element("thead");
    top.append(head);
    const body = element("tbody");
    const lines = settings.rewards.map((name, index) => [name.replaceAll("_", " "), shown.map((position) => row.s[position].w[index])]);
    [...lines, ["total", shown.map((position) => total(row.s[position]))]].forEach(([name, values]) => {
      const line = element("tr");
      const cell = element("th", "", name);
      cell.scope = "row";
      line.append(cell, ...values.map((value) => element("td", "", short(value))));
      body.append(line);
    });
    table.append(top, body);
    return table;
  }

  function fill(details, row, which, settings) {
    const prompt = element("pre", "prompt");
    prompt.dir = "ltr";
    const [first, last] = row.q;
    prompt.append(element("span", "soft", row.p.slice(0, first)), row.p.slice(first, last), element("span", "soft", row.p.slice(last)));
    const pair = element("div", "pair");
    pair.append(side(row, 0, settings), side(row, which, settings));
    details.append(element("h5", "", "prompt"), prompt, pair);
    if (settings.rewards.length) details.append(rewards(row, which, settings));
  }

  function summary(row, which, settings) {
    const line = element("summary");
    const outcome = row.o[which - 1];
    line.append(element("span", `outcome outcome-${outcome}`, page.outcomes[outcome]));
    line.append(element("span", "identity", row.id));
    line.append(element("span", "question", row.p.slice(...row.q).slice(0, 160)));
    line.append(element("span", "gold", `gold ${row.g}`));
    if (settings.rewards.length) line.append(element("span", "earned", `${short(total(row.s[0]))} → ${short(total(row.s[which]))}`));
    return line;
  }

  async function browse(browser) {
    const { rows, settings } = await unpack(browser.dataset.run);
    const list = find(".rows", browser);
    const search = find("input[type=search]", browser);
    const order = find(".order", browser);
    const against = find(".against", browser);
    const [previous, next] = all(".pages button", browser);
    const text = new Map(rows.map((row) => [row, [row.id, row.p, row.g, ...row.s.map((each) => each.c)].join("\n").toLowerCase()]));
    let from = 0;

    const which = () => Number(against?.value ?? 1);

    // Writes the number of rows beside each filter.
    function count() {
      all("input[type=radio]:not([value=all])", browser).forEach((box) => {
        const number = rows.filter((row) => row.o[which() - 1] === Number(box.value)).length;
        find(".soft", box.parentElement).textContent = number.toLocaleString("en");
      });
    }

    function show() {
      const outcome = find("input[type=radio]:checked", browser).value;
      const words = search.value.toLowerCase().trim();
      const trained = which();
      const found = rows
        .filter((row) => (outcome === "all" || row.o[trained - 1] === Number(outcome)) && (!words || text.get(row).includes(words)))
        .sort((a, b) => ORDERS[order.value](a, b, trained));
      from = Math.max(0, Math.min(from, Math.floor((found.length - 1) / SHOWN) * SHOWN));
      const part = found.slice(from, from + SHOWN);
      list.replaceChildren(
        ...part.map((row) => {
          const details = element("details");
          details.append(summary(row, trained, settings));
          details.addEventListener("toggle", () => fill(details, row, trained, settings), { once: true });
          return details;
        }),
      );
      find(".found", browser).textContent = found.length
        ? `${from + 1}–${from + part.length} of ${found.length}`
        : "no matching row";
      previous.disabled = from === 0;
      next.disabled = from + SHOWN >= found.length;
    }

    const restart = () => {
      from = 0;
      show();
    };
    all("input[type=radio], select", browser).forEach((control) => control.addEventListener("change", restart));
    against?.addEventListener("change", count);
    search.addEventListener("input", restart);
    previous.addEventListener("click", () => { from -= SHOWN; show(); });
    next.addEventListener("click", () => { from += SHOWN; show(); });
    count();
    show();
  }

  const soon = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      soon.unobserve(entry.target);
      browse(entry.target);
    }),
    { rootMargin: "400px" },
  );
  if (canUnpack) all(".browser").forEach((browser) => soon.observe(browser));

  // ---- Copying. If the browser refuses, the text is selected for the user to copy.

  all("button[data-copy]").forEach((button) =>
    button.addEventListener("click", async () => {
      const source = find(`#${CSS.escape(button.dataset.copy)}`);
      source.closest("details")?.setAttribute("open", "");
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(source);
        button.textContent = "Selected: press Ctrl-C";
      }
    }),
  );

  root.classList.add("scripted");
  if (canUnpack) root.classList.add("unpacks");
})();
