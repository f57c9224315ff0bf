// The page: asks for the state every second while it is seen, and says in its first line what is in service and whether
// it is well.

import { $, make, ms, number, say, span, whole } from "./dom.js";
import * as live from "./live.js";
import * as model from "./model.js";
import { Refused, ask, isGone, key, useKey } from "./server.js";
import * as form from "./try.js";

const EVERY_MS = 1000;
const LOCKED_MS = 10000;
const WITHIN_MS = 4000;
const TOLERATED = 0.01; // of requests that fail, for a warning and no more

let shownDigest = "";
let goneSince = null;
let timer = 0;
let polling = false;

async function poll() {
  clearTimeout(timer);
  if (document.hidden || polling) return;
  polling = true;
  let next = EVERY_MS;
  try {
    const { told } = await ask("ui/state", { withinMs: WITHIN_MS });
    goneSince = null;
    unlock();
    live.take(told);
    live.show(told);
    live.freshness("every second");
    announce(judged(told, live.lately()), details(told), told.model);
    if (told.model.digest + told.model.version !== shownDigest) await meet(told.model);
  } catch (failure) {
    if (failure instanceof Refused && failure.status === 401) next = await lock();
    else if (failure instanceof Refused || isGone(failure)) gone(failure);
    else throw failure;
  } finally {
    polling = false;
    timer = setTimeout(poll, next);
  }
}

async function meet(identity) {
  try {
    const { told } = await ask("ui/model");
    form.show(told.spec);
    model.show(told);
    shownDigest = identity.digest + identity.version;
  } catch (failure) {
    if (!(failure instanceof Refused)) throw failure;
    model.miss(failure.message);
  }
}

// -- the first line --------------------------------------------------------------------------------------------------

function judged(state, late) {
  const { following } = state;
  const bad = [];
  const warn = [];
  if (state.stalled) bad.push("Nothing is finished any more although requests wait: restart it.");
  const errors = Math.max(state.recent.errors, late.failed);
  const all = Math.max(state.recent.requests, late.ok + late.failed);
  if (errors) (errors > all * TOLERATED ? bad : warn).push(`${whole(errors)} of ${whole(all)} requests failed in the last minute.`);
  if (late.rejected) warn.push(`${number(late.rejected)} ${late.rejected === 1 ? "request was" : "requests were"} turned away in the last minute: it has more to do than it can.`);
  if (following.registry_up === false) warn.push(following.from_cache ? "The registry is away since before the start: this version came from the cache." : "The registry is away: this version stays until it answers.");
  if (following.alias_found === false) warn.push("The alias is gone: this version stays until it names another.");
  for (const { lane, version } of following.quarantined) warn.push(`Version ${version}${lane ? ` (${lane})` : ""} was refused; see Versions.`);
  if (following.rollbacks) warn.push(`${following.rollbacks === 1 ? "A version was" : `${following.rollbacks} versions were`} taken back by the alarm.`);
  if (state.draining) return ["warn", "is draining and will stop", [...bad, ...warn]];
  if (bad.length) return ["bad", "is in service and not well", [...bad, ...warn]];
  return warn.length ? ["warn", "is in service, with a warning", warn] : ["well", "is in service and well", []];
}

function details(state) {
  const late = live.lately();
  const rate = late.okPerS === null ? [] : [`${number(late.okPerS, 2)} answered a second`];
  const current = state.following.versions.find((each) => each.lane === "" && each.role === "serving");
  const p99 = current && current.p99_ms !== null ? [`the model's p99 ${ms(current.p99_ms)}`] : [];
  return [...rate, ...p99, `up ${span(state.uptime_s)}`].join(" · ");
}

function announce([level, words, reasons], beside, identity) {
  document.documentElement.dataset.level = level;
  say($("headline"), `${identity.name} version ${identity.version} ${words}`);
  say($("details"), beside);
  document.title = `${level === "well" ? "" : "! "}${identity.name} ${identity.version}`;
  const list = $("reasons");
  list.hidden = !reasons.length;
  if (reasons.join("\n") !== Array.from(list.children, (each) => each.textContent).join("\n")) {
    list.replaceChildren(...reasons.map((reason) => make("li", {}, reason)));
  }
}

function gone(failure) {
  goneSince ??= Date.now();
  document.documentElement.dataset.level = "gone";
  const said = failure instanceof Refused ? `The server answers ${failure.status}` : "The server does not answer";
  say($("headline"), said);
  say($("details"), `since ${span((Date.now() - goneSince) / 1000)}; this page asks again every second`);
  $("reasons").hidden = !(failure instanceof Refused);
  if (failure instanceof Refused) $("reasons").replaceChildren(make("li", {}, failure.message));
  document.title = "! no answer";
  live.freshness("as it was");
}

// -- keys ------------------------------------------------------------------------------------------------------------

// Without a key there is still what anybody may know: whether it is ready, and which version it is.
async function lock() {
  $("keys").hidden = false;
  $("skip").href = "#key"; // the form it leads to otherwise is not seen
  document.documentElement.dataset.locked = "";
  $("key-wrong").hidden = !key();
  try {
    const { told } = await ask("v2/health/ready", { withinMs: WITHIN_MS });
    announce(["well", "is in service and ready", []], "Give a key for more.", told.model);
  } catch (failure) {
    gone(failure);
  }
  return LOCKED_MS;
}

function unlock() {
  if ($("keys").hidden) return;
  $("keys").hidden = true;
  $("skip").href = "#text";
  delete document.documentElement.dataset.locked;
  if (document.activeElement === document.body) $("text").focus();
}

$("keys").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value.replace(/[^\x21-\x7e]/g, ""));
  $("key").value = "";
  poll();
});

// -- the rest --------------------------------------------------------------------------------------------------------

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function nameTheme() {
  say($("theme"), isDark() ? "Light" : "Dark");
  $("theme").setAttribute("aria-label", `Use the ${isDark() ? "light" : "dark"} theme`);
}

$("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("retort-theme", theme);
  } catch {
    // Storage is forbidden here: the choice lasts until the page is left.
  }
  nameTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
document.addEventListener("visibilitychange", poll);

nameTheme();
form.setUp({ onRefused: poll });
poll();
