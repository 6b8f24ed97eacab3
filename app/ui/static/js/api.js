// Calls to the HTTP API. Every failure becomes a Problem whose `message` can be shown to a person.

const TIMEOUT_MS = 15_000;

export class Problem extends Error {
  constructor(status, body = {}) {
    super(body.detail || body.title || "The reef gave an answer that this page does not understand.");
    this.status = status;
    this.title = body.title ?? "";
    this.errors = fieldErrors(body.errors);
    this.retryAfterS = body.retry_after_s ?? null;
    this.runId = body.run_id ?? null;
  }

  /** Nothing came back at all: the same call may be made again. */
  get unreachable() {
    return this.status === 0;
  }

  /** What was asked for is not there, or not any more. */
  get gone() {
    return this.status === 404 || this.status === 410;
  }

  /** Too much to do just now: the same call may be made again later. */
  get busy() {
    return this.status === 429 || this.status === 503;
  }
}

/** {field: sentence}, from a list of {field|pointer|path, message|detail} or an object of that form. */
function fieldErrors(errors) {
  const found = {};
  if (Array.isArray(errors)) {
    for (const error of errors) {
      const place = error.field ?? error.pointer ?? error.path ?? "";
      const field = String(place).replace(/^[#$./]+/, "").split(/[./]/)[0];
      if (field) found[field] = error.message ?? error.detail ?? "This value cannot be used.";
    }
  } else if (errors && typeof errors === "object") {
    for (const [field, text] of Object.entries(errors)) found[field] = Array.isArray(text) ? text.join(" ") : String(text);
  }
  return found;
}

export async function call(method, path, body, headers = {}, timeoutMs = TIMEOUT_MS) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(timeoutMs),
    });
  } catch {
    throw new Problem(0, { detail: "The reef cannot be reached." });
  }
  if (response.status === 401) {
    toLogin();
  }
  if (response.status === 204) return null;
  let answer = {};
  try {
    answer = await response.json();
  } catch {
    if (response.ok) throw new Problem(0, { detail: "The answer of the reef was cut short." });
  }
  if (!response.ok) {
    const retryAfter = Number(response.headers.get("Retry-After"));
    if (retryAfter > 0 && answer.retry_after_s === undefined) answer.retry_after_s = retryAfter;
    throw new Problem(response.status, answer);
  }
  return answer;
}

export function toLogin() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
}

const V1 = "/api/v1";
const id = encodeURIComponent;

export const personas = () => call("GET", `${V1}/personas`).then((answer) => answer.personas);
export const persona = (personaId) => call("GET", `${V1}/personas/${id(personaId)}`);
export const createPersona = (fields) => call("POST", `${V1}/personas`, fields);
export const updatePersona = (personaId, fields) => call("PUT", `${V1}/personas/${id(personaId)}`, fields);
/** `documents`: "keep" or "delete" those that it alone reads. */
export const deletePersona = (personaId, documents) => call("DELETE", `${V1}/personas/${id(personaId)}?documents=${documents}`);
/** How many documents a persona reads besides those that all share. */
export const countDocuments = (personaId) => call("GET", `${V1}/documents?${new URLSearchParams({ store: personaId, state: "current", limit: 1 })}`).then((answer) => answer.total);

/** A page of the list: {sessions, next}; `before` is the `next` of the page before it. */
export const sessions = (query, { limit, before = "" }) =>
  call("GET", `${V1}/sessions?${new URLSearchParams({ ...(query ? { query } : {}), ...(before ? { before } : {}), limit })}`);
export const createSession = (personaId) => call("POST", `${V1}/sessions`, { persona_id: personaId });
export const renameSession = (sessionId, title) => call("PATCH", `${V1}/sessions/${id(sessionId)}`, { title });
export const history = (sessionId) => call("GET", `${V1}/chat/history/${id(sessionId)}`);
export const deleteSession = (sessionId) => call("DELETE", `${V1}/chat/history/${id(sessionId)}`);

export const message = (messageId) => call("GET", `${V1}/messages/${id(messageId)}`);
export const regenerate = (messageId) => call("POST", `${V1}/messages/${id(messageId)}/regenerate`, {});
export const goOn = (messageId) => call("POST", `${V1}/messages/${id(messageId)}/continue`, {});
export const edit = (messageId, text) => call("POST", `${V1}/messages/${id(messageId)}/edit`, { message: text });

/** Hand in a message without waiting for the reply; the key makes it safe to call again when no answer came. */
export const chat = (personaId, sessionId, text, idempotencyKey) =>
  call(
    "POST",
    `${V1}/chat`,
    { persona_id: personaId, session_id: sessionId, message: text, wait: false },
    { "Idempotency-Key": idempotencyKey },
  );
export const stop = (runId) => call("POST", `${V1}/runs/${id(runId)}/stop`, {});
export const eventsUrl = (runId, afterSeq) => `${V1}/runs/${id(runId)}/events?after=${afterSeq}`;

export const uploadEventsUrl = (uploadId) => `${V1}/uploads/${id(uploadId)}/events`;

export const status = () => call("GET", `${V1}/system/status`);
export const models = () => call("GET", `${V1}/system/models`).then((answer) => answer.models);
