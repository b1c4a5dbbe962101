// What concerns the whole page: theme, printing, copying.

// ---- Theme.

const root = document.documentElement;
const redraw = () => charts.forEach((_, plot) => plot.redraw());

function setTheme(name) {
  if (name === "system") delete root.dataset.theme;
  else root.dataset.theme = name;
  redraw();
}

find("#theme").addEventListener("change", (event) => setTheme(event.target.value));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// ---- Printing.

// It shows all charts on white and opens folded parts, except long ones that are in files anyway.
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
