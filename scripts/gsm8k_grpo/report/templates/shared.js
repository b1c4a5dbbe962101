// What the other parts share. page.py puts all parts into one function, so each sees the names of the others.
// Foreign text (of models, data, settings) enters the page through textContent only; the page's policy forbids every
// other way.

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
