// Rates, phases, versions: differences between what the server counted now and at most a minute ago.

import { $, bytes, fill, make, ms, number, percent, say, span, spark, table, whole } from "./dom.js";

const KEEP_S = 60;
const PHASES = ["queue", "tokenize", "infer", "other"];
let kept = [];

// Take a state in; a server that began anew counts from 0, and so does the history.
export function take(state) {
  const last = kept.at(-1);
  if (last && (state.uptime_s < last.uptime_s || state.clock_s <= last.clock_s)) kept = [];
  kept.push(state);
  while (state.clock_s - kept[0].clock_s > KEEP_S + 1.5) kept.shift();
}

const failed = (counts) => counts.server_error + counts.expired;

// Per second, between each state and the one before.
function rates(of) {
  return kept.slice(1).map((state, at) => {
    const before = kept[at];
    return Math.max(0, (of(state.counts) - of(before.counts)) / (state.clock_s - before.clock_s));
  });
}

export function lately() {
  const [first, last] = [kept[0], kept.at(-1)];
  const since = (of) => of(last.counts) - of(first.counts);
  return {
    seconds: last.clock_s - first.clock_s,
    ok: since((counts) => counts.ok),
    failed: since(failed),
    rejected: since((counts) => counts.rejected),
    okPerS: rates((counts) => counts.ok).at(-1) ?? null,
  };
}

export function show(state) {
  const values = (of) => kept.map(of);
  const { queue } = state;
  const rate = (name, of, alarm) => {
    const found = rates(of);
    const last = found.at(-1) ?? null;
    return tile(name, last === null ? "–" : perSecond(last), "/s", found, { alarm: alarm && found.some((each) => each > 0) ? alarm : "" });
  };
  fill(
    $("tiles"),
    rate("Answered", (counts) => counts.ok),
    rate("Failed", failed, "bad"),
    rate("Turned away", (counts) => counts.rejected, "warn"),
    rate("Bad requests", (counts) => counts.client_error),
    tile("In flight", whole(state.in_flight), "", values((each) => each.in_flight)),
    tile("Queue", whole(queue.length), `of ${whole(queue.limit)}`, values((each) => each.queue.length), { most: 4 }),
    tile("Saturation", queue.saturation === null ? "–" : percent(queue.saturation, 0), "", values((each) => each.queue.saturation), { most: 1, alarm: queue.saturation > 0.9 ? "warn" : "" }),
    tile("Memory", bytes(state.memory_bytes), "", values((each) => each.memory_bytes)),
  );
  showPhases(state);
  showLanes(state.following);
}

const perSecond = (value) => (value >= 100 ? whole(value) : value >= 10 || value === 0 ? value.toFixed(0) : value.toFixed(1));

function tile(name, value, unit, line, { most = null, alarm = "" } = {}) {
  return make("div", { class: `tile ${alarm}` }, make("h3", {}, name), make("p", {}, make("b", {}, value), unit ? make("span", {}, ` ${unit}`) : null), spark(line, { most }));
}

// -- phases ----------------------------------------------------------------------------------------------------------

function showPhases(state) {
  const first = kept[0];
  let requests = 0;
  const since = (phase) => state.phases.counts[phase].map((count, at) => count - first.phases.counts[phase][at]);
  const isFresh = since("infer").at(-1) > 0;
  const rows = PHASES.map((phase) => {
    const counts = isFresh ? since(phase) : state.phases.counts[phase];
    requests = Math.max(requests, counts.at(-1));
    const bounds = state.phases.bounds_s;
    const name = make("span", { class: "phase" }, make("i", { class: phase, "aria-hidden": "true" }), phase);
    return [name, ms(quantile(counts, bounds, 0.5)), ms(quantile(counts, bounds, 0.95)), spark(means(phase))];
  });
  const when = isFresh ? `the last ${span(Math.min(KEEP_S, lately().seconds))}` : "the time since the start";
  const told = requests ? `Latency by phase, of ${whole(requests)} answered in ${when}` : "Latency by phase; nothing was answered yet";
  fill($("phases"), table(told, [["Phase", ""], ["p50", "number"], ["p95", "number"], ["mean, last minute", "line"]], rows, { seen: true }));
}

function means(phase) {
  return kept.slice(1).map((state, at) => {
    const before = kept[at].phases;
    const count = state.phases.counts[phase].at(-1) - before.counts[phase].at(-1);
    return count > 0 ? (state.phases.sum_s[phase] - before.sum_s[phase]) / count : null;
  });
}

// Milliseconds, interpolated within the bucket it falls into; counts are of at most each bound, and of all.
function quantile(counts, bounds, share) {
  const all = counts.at(-1);
  if (!all) return null;
  const at = counts.findIndex((count) => count >= share * all);
  if (at >= bounds.length) return bounds.at(-1) * 1e3;
  const low = at ? bounds[at - 1] : 0;
  const before = at ? counts[at - 1] : 0;
  return (low + ((bounds[at] - low) * (share * all - before)) / (counts[at] - before)) * 1e3;
}

// -- versions --------------------------------------------------------------------------------------------------------

const ROLES = { "": "main", canary: "canary", shadow: "shadow" };

function showLanes(following) {
  const columns = [["Version", ""], ["Role", ""], ["Digest", ""], ["Requests", "number"], ["Errors", "number"], ["p50", "number"], ["p99", "number"], ["Since", ""]];
  const rows = following.versions.map((each) => [
    `${each.name} ${each.version}`,
    make("span", { class: `role ${each.role === "hot" ? "hot" : ROLES[each.lane]}` }, each.role === "hot" ? "kept loaded" : ROLES[each.lane]),
    make("code", {}, each.digest.slice(0, 12)),
    whole(each.requests),
    make("span", { class: each.errors ? "bad" : null }, whole(each.errors)),
    ms(each.p50_ms),
    ms(each.p99_ms),
    each.since ? new Date(each.since).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) : null,
  ]);
  const lines = [followed(following), canary(following.canary), shadow(following.shadow), ...following.quarantined.map(quarantined)];
  const told = make("ul", { class: "lines" }, lines.filter(Boolean).map((line) => make("li", {}, line)));
  fill($("lanes"), table("Versions in memory; times are the model's own, of its last 1,000 requests", columns, rows, { seen: true }), told);
}

function followed({ source, registry_up, polled_s_ago }) {
  if (registry_up === null || registry_up === undefined) return source ? `Served from ${source}; it follows no alias.` : "No alias is followed.";
  const polled = polled_s_ago === null ? "" : `, asked ${polled_s_ago < 10 ? "a few seconds" : span(polled_s_ago)} ago`;
  return `Follows ${source}. The registry ${registry_up ? "answers" : "is away"}${polled}.`;
}

// On or off, and what follows from it.
function beside(name, told, doing) {
  const head = [`The ${name}, ${told.source}, is `, make("strong", {}, told.off ? "off" : "on"), ": "];
  if (told.off) return [...head, `${told.off}.`];
  const but = told.trouble ? make("span", { class: "warn" }, ` But: ${told.trouble}.`) : null;
  return [...head, `version ${told.version} ${doing(told)}.`, but];
}

const canary = (told) => told && beside("canary", told, given);
const shadow = (told) => told && beside("shadow", told, agrees);
const given = ({ share, requests }) => `is given ${number(share * 100)} % of the requests and answered ${whole(requests)}`;
const MEASURES = { kl: "mean divergence (KL)", cosine: "mean cosine", difference: "mean difference" };

function agrees(told) {
  if (!told.compared) return "has not computed anything yet";
  const same = told.agreement === null ? "was compared on " : `gives the same answer for ${percent(told.agreement)} of `;
  const how = told.measure ? `; ${MEASURES[told.measure]} ${number(told.mean)}, worst ${number(told.worst)}` : "";
  const times = told.main && told.shadow ? `; p99 ${ms(told.shadow.p99_ms)} against ${ms(told.main.p99_ms)}` : "";
  const missed = told.dropped ? `; ${whole(told.dropped)} requests were not shown to it for want of time` : "";
  return `${same}${whole(told.compared)} items${how}${times}${missed}`;
}

function quarantined({ lane, version, why }) {
  return make("span", { class: "warn" }, `Version ${version}${lane ? ` (${lane})` : ""} is refused until the alias moves: ${why}`);
}

export function freshness(words) {
  say($("fresh"), words);
}
