// A small part of Markdown, as elements: headings, paragraphs, lists, tables, code, quotes, links, emphasis. Whatever
// else is written stays text: no HTML, no pictures, and no link but to the web.

import { make } from "./dom.js";

const FENCE = /^\s*(```+|~~~+)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const INLINE = /\\([!-/:-@[-`{-~])|(`+)(.+?)\2(?!`)|\*\*(.+?)\*\*|\*([^\s*](?:.*?[^\s*])?)\*|\[([^\]]*)\]\(([^()\s]*)\)|<(https?:\/\/[^\s<>]+)>/;

// `below` is added to the level of every heading.
export function rendered(text, { below = 0 } = {}) {
  const lines = text.replace(/\r\n?/g, "\n").replace(/^---\n[\s\S]*?\n---\n/, "").split("\n");
  return blocks(lines, below);
}

function blocks(lines, below) {
  const found = [];
  let at = 0;
  const take = (fits) => {
    const begin = at;
    while (at < lines.length && fits(lines[at])) at += 1;
    return lines.slice(begin, at);
  };
  while (at < lines.length) {
    const line = lines[at];
    const fence = line.match(FENCE);
    const heading = line.match(HEADING);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      at += 1;
      const code = take((each) => !each.trim().startsWith(fence[1]));
      at += 1;
      found.push(make("pre", { tabindex: "0" }, make("code", {}, code.join("\n"))));
    } else if (heading) {
      at += 1;
      found.push(make(`h${Math.min(6, heading[1].length + below)}`, {}, inline(heading[2])));
    } else if (RULE.test(line)) {
      at += 1;
      found.push(make("hr"));
    } else if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "")) {
      found.push(tabular(take((each) => each.includes("|"))));
    } else if (ITEM.test(line)) {
      found.push(list(take((each) => ITEM.test(each) || /^\s+\S/.test(each))));
    } else if (line.startsWith(">")) {
      found.push(make("blockquote", {}, blocks(take((each) => each.startsWith(">")).map((each) => each.replace(/^> ?/, "")), below)));
    } else {
      const first = at;
      const words = take((each) => each.trim() !== "" && (at === first || !(FENCE.test(each) || HEADING.test(each) || ITEM.test(each))));
      found.push(make("p", {}, inline(words.join(" "))));
    }
  }
  return found;
}

function list(lines) {
  const items = [];
  for (const line of lines) {
    const item = line.match(ITEM);
    if (item) items.push(item[3]);
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  const ordered = /\d/.test(lines[0].match(ITEM)[2]);
  return make(ordered ? "ol" : "ul", {}, items.map((item) => make("li", {}, inline(item))));
}

function tabular(lines) {
  const cells = (line) => line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const head = cells(lines[0]);
  const body = lines.slice(2).map(cells);
  const row = (line, tag) => make("tr", {}, head.map((_, at) => make(tag, {}, inline(line[at] ?? ""))));
  return make(
    "div",
    { class: "scrolls", tabindex: "0", role: "group", "aria-label": "Table" },
    make("table", {}, head.some(Boolean) ? make("thead", {}, row(head, "th")) : null, make("tbody", {}, body.map((line) => row(line, "td")))),
  );
}

function inline(text) {
  const found = [];
  let rest = text;
  while (rest) {
    const match = rest.match(INLINE);
    if (!match) break;
    found.push(rest.slice(0, match.index), marked(match));
    rest = rest.slice(match.index + match[0].length);
  }
  return [...found, rest];
}

function marked([whole, escaped, ticks, code, strong, emphasis, words, target, address]) {
  if (escaped) return escaped;
  if (ticks) return make("code", {}, code.trim());
  if (strong) return make("strong", {}, inline(strong));
  if (emphasis) return make("em", {}, inline(emphasis));
  if (address) return link(address, [address]);
  return link(target, inline(words)) ?? whole;
}

// Null where it leads to anything but the web: a file of the version is not served, and a script never.
function link(target, children) {
  if (!/^https?:\/\//i.test(target)) return null;
  return make("a", { href: target, rel: "noopener noreferrer", target: "_blank" }, children);
}
