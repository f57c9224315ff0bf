// The form: one item (two for a comparison of vectors) to the model's own route, and what came back.

import { $, drawn, make, ms, number, percent, say, table, whole } from "./dom.js";
import { Refused, ask, isGone } from "./server.js";

const SHOWN = 10;
const WORDS = {
  classification: ["Classify", "classify"],
  "multi-label": ["Label", "label"],
  regression: ["Score", "score"],
  "token-classification": ["Tag", "tag"],
  embedding: ["Embed", "embed"],
};
const EXAMPLES = {
  "token-classification": ["Marie Curie moved from Warsaw to Paris in 1891 and taught at the Sorbonne."],
  embedding: ["The train to Lisbon leaves at nine.", "At nine o'clock a train departs for Lisbon."],
};
const PLAIN = ["The staff were kind and the room was spotless, but breakfast was a letdown.", "The room was dirty."];

let spec = null;
let asking = false;

export function setUp({ onRefused }) {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send(onRefused);
  });
  $("ask").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      send(onRefused);
    }
  });
  $("ask").addEventListener("input", count);
  $("example").addEventListener("click", () => {
    const [first, second] = EXAMPLES[spec?.task] ?? PLAIN;
    $("text").value = first;
    $("text2").value = isTwo() ? second : "";
    count();
    $("text").focus();
  });
}

export function show(told) {
  const before = spec;
  spec = told;
  say($("send"), WORDS[spec.task][0]);
  $("send").disabled = false;
  $("second").hidden = !isTwo();
  say($("text-label"), spec.texts_per_item === 2 ? "First text" : "Text");
  say($("text2-label"), spec.texts_per_item === 2 ? "Second text" : "Compare with (if you like)");
  count();
  if (before && before.task !== spec.task) $("result").replaceChildren();
}

const isTwo = () => spec !== null && (spec.texts_per_item === 2 || spec.task === "embedding");

// The server counts code points, JavaScript halves of some of them.
const lengthOf = (text) => Array.from(text).length;

function count() {
  if (spec === null) return;
  const long = Math.max(lengthOf($("text").value), isTwo() ? lengthOf($("text2").value) : 0);
  const limit = spec.max_characters;
  const reads = spec.long_texts.charAt(0).toUpperCase() + spec.long_texts.slice(1);
  say($("text-hint"), `${reads}. ${whole(long)} of at most ${whole(limit)} characters.`);
  $("text-hint").classList.toggle("wrong", long > limit);
}

function items() {
  const [first, second] = [$("text").value, $("text2").value];
  if (spec.texts_per_item === 2) return [[first, second]];
  return spec.task === "embedding" && second !== "" ? [first, second] : [first];
}

async function send(onRefused) {
  if (spec === null || asking) return;
  asking = true;
  const texts = items();
  $("try").setAttribute("aria-busy", "true");
  const began = performance.now();
  try {
    const answer = await ask(spec.route.slice(1), { body: { texts } });
    answered(answer, texts, performance.now() - began);
  } catch (failure) {
    if (!(failure instanceof Refused) && !isGone(failure)) throw failure;
    refuse(failure);
    if (failure.status === 401) onRefused();
  } finally {
    asking = false;
    $("try").removeAttribute("aria-busy");
  }
}

function answered({ told, headers }, texts, tookMs) {
  const { name, version, digest } = told.model;
  const { nodes, words } = shown(told.results, texts);
  const from = make("p", { class: "hint" }, `By ${name} version ${version}, digest `, make("code", {}, digest.slice(0, 12)));
  $("result").replaceChildren(...nodes, ...timing(headers.get("server-timing"), tookMs), from);
  say($("spoken"), words);
}

function refuse(failure) {
  const gone = !(failure instanceof Refused);
  const title = gone ? "No answer" : `${failure.status >= 500 && failure.status !== 503 ? "Failed" : "Refused"} with ${failure.status}`;
  const words = gone ? "The server cannot be reached." : failure.message;
  say($("spoken"), "");
  $("result").replaceChildren(make("div", { class: "notice bad", role: "alert" }, make("strong", {}, title), make("p", {}, words)));
}

// -- results ---------------------------------------------------------------------------------------------------------

function shown(results, texts) {
  const [result] = results;
  if (spec.task === "token-classification") return tagged(result.entities, texts[0]);
  if (spec.task === "embedding") return vectors(results.map((each) => each.embedding));
  if (spec.task === "regression") {
    return { nodes: [make("p", { class: "big" }, number(result.score, 5))], words: `The score is ${number(result.score, 5)}` };
  }
  return spec.task === "multi-label" ? labelled(result) : classified(result);
}

function classified(result) {
  const sure = percent(result.score);
  const nodes = [];
  let words = `${result.label}, ${sure}`;
  if (result.refused) {
    words = `Refused: the best score, ${sure}, is below ${percent(spec.refuse_below)}`;
    nodes.push(make("div", { class: "notice warn" }, make("strong", {}, "The model refuses to answer"), make("p", {}, `Its best score, ${sure}, is below ${percent(spec.refuse_below)}.`)));
  } else {
    nodes.push(make("p", { class: "big" }, result.label, " ", make("span", {}, sure)));
  }
  const rows = Object.entries(result.scores).map(([label, score]) => ({ label, score, given: label === result.label }));
  return { nodes: [...nodes, bars(rows)], words };
}

function labelled(result) {
  const given = new Set(result.labels);
  const at = Object.fromEntries(spec.labels.map((label, index) => [label, spec.thresholds[index]]));
  const rows = Object.entries(result.scores).map(([label, score]) => ({ label, score, given: given.has(label), threshold: at[label] }));
  const words = given.size ? `Given: ${result.labels.join(", ")}` : "No label reaches its threshold";
  const title = given.size ? result.labels.join(", ") : "No label";
  const hint = make("p", { class: "hint" }, "A label is given where its score reaches its threshold, the mark on its bar.");
  return { nodes: [make("p", { class: "big" }, title), bars(rows), hint], words };
}

function bars(rows) {
  rows.sort((one, other) => other.score - one.score);
  const list = make("ol", { class: "bars" }, rows.slice(0, SHOWN).map(bar));
  if (rows.length <= SHOWN) return list;
  const more = make("button", { type: "button", class: "quiet" }, `All ${whole(rows.length)} labels`);
  more.addEventListener("click", () => {
    list.append(...rows.slice(SHOWN).map(bar));
    list.tabIndex = -1;
    list.focus();
    more.remove();
  });
  return make("div", {}, list, more);
}

function bar({ label, score, given, threshold }) {
  const fill = make("i", { class: "fill" });
  fill.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
  const mark = threshold === undefined ? null : make("i", { class: "mark" });
  if (mark) mark.style.left = `${threshold * 100}%`;
  return make(
    "li",
    { class: given ? "given" : null },
    make("span", { class: "label" }, label, given ? make("span", { class: "unseen" }, " (given)") : null),
    make("span", { class: "value" }, percent(score)),
    make("span", { class: "rail", "aria-hidden": "true" }, fill, mark),
  );
}

// Places count code points, so the text is cut as an array of them.
function tagged(entities, text) {
  const points = Array.from(text);
  const cut = (start, end) => points.slice(start, end).join("");
  const kinds = [...new Set(spec.labels.map((label) => label.slice(2)).filter(Boolean))];
  const nodes = [];
  let at = 0;
  for (const { label, start, end, score } of entities) {
    nodes.push(cut(at, start));
    nodes.push(make("mark", { class: `kind${kinds.indexOf(label) % 6}`, title: `${label}, ${percent(score)}` }, cut(start, end), make("span", { class: "tag" }, label, " ", make("span", {}, percent(score, 0)))));
    at = end;
  }
  nodes.push(cut(at, points.length));
  const rows = entities.map((each) => [each.text, each.label, percent(each.score), `${each.start}–${each.end}`]);
  const columns = [["Text", ""], ["Label", ""], ["Score", "number"], ["Characters", "number"]];
  const found = `${entities.length} ${entities.length === 1 ? "entity" : "entities"}`;
  const list = entities.length ? table("What was found", columns, rows) : make("p", { class: "hint" }, "Nothing was found in this text.");
  const words = entities.length ? `${found}: ${entities.map((each) => `${each.text}, ${each.label}`).join("; ")}` : "Nothing was found";
  return { nodes: [make("p", { class: "tagged" }, nodes), list], words };
}

function vectors(rows) {
  const nodes = rows.map((row, index) => {
    const told = `${whole(row.length)} numbers from ${number(Math.min(...row))} to ${number(Math.max(...row))}; norm ${number(norm(row), 4)}`;
    return make("figure", { class: "vector" }, make("figcaption", {}, rows.length > 1 ? `Text ${index + 1}: ${told}` : told), strip(row));
  });
  if (rows.length < 2) return { nodes, words: `${whole(rows[0].length)} numbers, norm ${number(norm(rows[0]), 4)}` };
  const cosine = dot(rows[0], rows[1]) / (norm(rows[0]) * norm(rows[1]));
  const told = Number.isFinite(cosine) ? cosine.toFixed(4) : "not defined";
  nodes.unshift(make("p", { class: "big" }, told, " ", make("span", {}, "cosine similarity")));
  return { nodes, words: `The cosine similarity is ${told}` };
}

const dot = (one, other) => one.reduce((sum, value, index) => sum + value * other[index], 0);
const norm = (row) => Math.sqrt(dot(row, row));

function strip(row) {
  const most = Math.max(...row.map(Math.abs), 1e-12);
  const up = [];
  const down = [];
  row.forEach((value, index) => (value >= 0 ? up : down).push(`M${index + 0.5} 20V${(20 - (19 * value) / most).toFixed(2)}`));
  const line = (name, d) => drawn("path", { class: name, d: d.join("") || "M0 20", "stroke-width": 0.8 });
  return drawn("svg", { viewBox: `0 0 ${row.length} 40`, preserveAspectRatio: "none", "aria-hidden": "true" }, line("up", up), line("down", down));
}

// -- where the time went ---------------------------------------------------------------------------------------------

function timing(header, tookMs) {
  if (!header) return [];
  const told = Object.fromEntries(header.split(",").map((each) => each.trim().split(";dur=")).map(([name, value]) => [name, Number(value)]));
  const known = ["queue", "tokenize", "infer"].map((name) => [name, told[name] ?? 0]);
  const other = Math.max(0, (told.total ?? 0) - known.reduce((sum, [, value]) => sum + value, 0));
  const phases = [...known, ["other", other]];
  const all = phases.reduce((sum, [, value]) => sum + value, 0) || 1;
  const stack = make("div", { class: "stack", "aria-hidden": "true" }, phases.map(([name, value]) => {
    const part = make("i", { class: name });
    part.style.width = `${(value / all) * 100}%`;
    return part;
  }));
  const legend = make("ul", { class: "legend" }, phases.map(([name, value]) => make("li", {}, make("i", { class: name, "aria-hidden": "true" }), `${name} `, make("b", {}, ms(value)))));
  const sum = make("p", { class: "hint" }, `${ms(told.total)} in the server, ${ms(tookMs)} as the browser sees it`);
  return [make("div", { class: "timing" }, make("h3", {}, "Where the time went"), stack, legend, sum)];
}
