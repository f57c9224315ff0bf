// What is known of the model in service: what it reads and answers, its receipts, its card.

import { $, bytes, facts, make, number, percent, table, whole } from "./dom.js";
import { rendered } from "./markdown.js";

const LABELS = 40;
const TASKS = {
  classification: "one label of several",
  "multi-label": "any number of labels",
  regression: "a number",
  "token-classification": "entities, with their places in the text",
  embedding: "a vector",
};

export function show({ model, spec, setting, size_bytes, card, receipts, verdict, evidence }) {
  const nodes = [known(model, spec, setting, size_bytes)];
  if (verdict) nodes.push(judged(verdict));
  nodes.push(...receipts.map(receipt));
  if (evidence) nodes.push(make("p", { class: "hint" }, evidence));
  if (card !== null) nodes.push(carded(card));
  $("about").replaceChildren(...nodes);
}

export function miss(message) {
  $("about").replaceChildren(make("p", { class: "notice bad" }, `Its description cannot be had: ${message}`));
}

function known(model, spec, setting, size_bytes) {
  const pairs = spec.texts_per_item === 2;
  return facts([
    ["Answers with", TASKS[spec.task]],
    ["Asked at", make("code", {}, `POST ${spec.route}`)],
    ["Reads", `${pairs ? "pairs of texts" : "one text per item"}; ${spec.long_texts}`],
    ["At most", `${whole(spec.max_items)} items a request, ${whole(spec.max_characters)} characters a text`],
    ["Labels", labels(spec)],
    ["Refuses", spec.refuse_below === null ? null : `answers below ${percent(spec.refuse_below)}`],
    ["Vector", spec.dimensions === null ? null : `${whole(spec.dimensions)} numbers`],
    ["Words", spec.task === "token-classification" ? `tagged by the ${{ first: "first of their tokens", max: "surest of their tokens", average: "average of their tokens" }[spec.aggregation]}` : null],
    ["Size", `${size_bytes === null ? "" : `${bytes(size_bytes)}, `}${whole(spec.parameters)} parameters`],
    ["Computed by", `${spec.runtime}${spec.runtime === "onnxruntime" ? ` (${spec.providers.join(", ")})` : ""}; ${setting}`],
    ["Needs", spec.cpu_features.length ? `a CPU with ${spec.cpu_features.join(", ")}` : null],
    ["Variant", spec.name],
    ["Digest", make("code", { class: "long" }, model.digest)],
  ]);
}

function labels({ labels: names, thresholds }) {
  if (!names.length) return null;
  const said = names.map((name, at) => (thresholds.length ? `${name} (from ${number(thresholds[at])})` : name));
  if (said.length <= LABELS) return `${whole(said.length)}: ${said.join(", ")}`;
  return make("details", {}, make("summary", {}, whole(said.length)), said.join(", "));
}

function judged({ verdict, reason }) {
  const level = verdict === "PASS" ? "well" : "warn";
  return make("p", { class: "verdict" }, make("strong", { class: level }, verdict), " ", reason);
}

function receipt({ target, figures, started, machine, threads, noisy }) {
  const interval = ({ low, high }) => (low === null || high === null ? "" : `${number(low)} to ${number(high)}`);
  const rows = figures.map((each) => [make("code", {}, each.name), number(each.value, 4), interval(each)]);
  const where = [machine, threads && `${threads} ${threads === 1 ? "thread" : "threads"}`, started && started.slice(0, 16).replace("T", " ")].filter(Boolean);
  return make(
    "details",
    { class: "receipt" },
    make("summary", {}, `Receipt: target ${target}`, make("span", { class: "hint" }, ` ${where.join(", ")}`)),
    noisy ? make("p", { class: "notice warn" }, "Noise was found while this was measured: its times settle nothing.") : null,
    table(`Figures measured on ${target}`, [["Figure", ""], ["Value", "number"], ["95 % interval", "number"]], rows),
  );
}

function carded(card) {
  return make("details", { class: "card" }, make("summary", {}, "Model card"), make("div", { class: "prose" }, rendered(card, { below: 2 })));
}
