// The browser of completions, before and after training.

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
