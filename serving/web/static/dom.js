// Elements out of values. Whatever is told becomes a text node: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

// make("p", { class: "hint", hidden: true }, "words", another): null children are left out.
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Words in place of others, without touching what is the same: a live region would say it again.
export function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

// Children in place of others of the same make: only what differs is touched, so focus and scrolling stay as they are.
export function fill(place, ...children) {
  const fresh = make(place.tagName, {}, ...children);
  if (place.childNodes.length !== fresh.childNodes.length) place.replaceChildren(...fresh.childNodes);
  else [...place.childNodes].forEach((child, at) => change(child, fresh.childNodes[at]));
}

function change(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName || old.childNodes.length !== fresh.childNodes.length) {
    old.replaceWith(fresh.cloneNode(true));
  } else if (old.nodeType === Node.TEXT_NODE) {
    old.data = fresh.data;
  } else {
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    [...old.childNodes].forEach((child, at) => change(child, fresh.childNodes[at]));
  }
}

// A table that scrolls by itself where it is wider than the page. A column is [heading, class]; `seen`: its name is shown.
export function table(name, columns, rows, { seen = false } = {}) {
  const cell = (value, at) => (at === 0 ? make("th", { scope: "row" }, value) : make("td", { class: columns[at][1] || null }, value ?? "–"));
  const head = columns.map(([heading, kind]) => make("th", { scope: "col", class: kind || null }, heading));
  const body = rows.map((row) => make("tr", {}, row.map(cell)));
  const whole = make("table", { "aria-label": name }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, body));
  const scrolls = make("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": name }, whole);
  return seen ? make("div", {}, make("p", { class: "hint" }, name), scrolls) : scrolls;
}

export function facts(pairs) {
  const told = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return make("dl", { class: "facts" }, told.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

// The last minute as a line: values in order of time, null where there is none.
export function spark(values, { most = null } = {}) {
  const width = 120;
  const height = 28;
  const top = Math.max(most ?? 0, ...values.filter((value) => value !== null), 1e-9);
  const step = width / 59;
  let path = "";
  let pen = false;
  values.forEach((value, at) => {
    if (value === null) {
      pen = false;
      return;
    }
    const x = (width - (values.length - 1 - at) * step).toFixed(1);
    const y = (height - 2 - (value / top) * (height - 4)).toFixed(1);
    path += `${pen ? "L" : "M"}${x} ${y}`;
    pen = true;
  });
  return drawn(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("path", { d: path || "M0 0", "vector-effect": "non-scaling-stroke" }),
  );
}

export const whole = (value) => Math.round(value).toLocaleString("en");

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1000) return whole(value);
  return value === 0 ? "0" : String(Number(value.toPrecision(digits)));
}

export function ms(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value >= 100) return `${whole(value)} ms`;
  return `${value.toFixed(value >= 10 ? 1 : 2)} ms`;
}

export const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)} %`;

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  if (count >= 1e9) return `${(count / 1e9).toFixed(2)} GB`;
  return count >= 1e5 ? `${number(count / 1e6)} MB` : `${number(count / 1e3)} kB`;
}

export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
