// How the page asks the server, with the key that was given in this tab.

const KEY = "retort-key";
let kept = null;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function key() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return kept; // Storage is forbidden here: the key lasts until the page is left.
  }
}

export function useKey(value) {
  kept = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    // As above.
  }
}

// Whether nobody answered, or not in time.
export function isGone(failure) {
  return failure instanceof TypeError || failure.name === "TimeoutError" || failure.name === "AbortError";
}

// The answer's JSON and headers. Raises Refused with the server's own words, or what isGone knows.
export async function ask(path, { body = null, withinMs = 30000 } = {}) {
  const headers = { accept: "application/json" };
  const known = key();
  if (known) headers.authorization = `Bearer ${known}`;
  if (body !== null) headers["content-type"] = "application/json";
  const response = await fetch(path, {
    method: body === null ? "GET" : "POST",
    headers,
    body: body === null ? undefined : JSON.stringify(body),
    cache: "no-store",
    credentials: "same-origin",
    signal: AbortSignal.timeout(withinMs),
  });
  const text = await response.text();
  let told = null;
  try {
    told = JSON.parse(text);
  } catch {
    throw new Refused(response.status, `the server answered ${response.status} and no JSON`);
  }
  if (!response.ok) throw new Refused(response.status, String(told?.error ?? text));
  return { told, headers: response.headers };
}
