// Bytes on their way: one request that tells how far it is, can be taken back, and fails in words.
// tus.io/protocols is what the server speaks for large files. What to send, and what to do on a failure: sender.js.

import { Problem, toLogin } from "../api.js";

const V1 = "/api/v1";
const FILES = `${V1}/uploads/files`;
const TUS = { "Tus-Resumable": "1.0.0" };
const SILENT_MS = 60_000;
export const PART_BYTES = 8 * 1024 * 1024;
/** What the server may be asked again later: timeouts, a file being written, too much to do, an outage. */
const PASSING = new Set([0, 408, 423, 429, 502, 503, 504]);

export const passing = (problem) => problem instanceof Problem && PASSING.has(problem.status);

/** Send a body. `progress(bytes)` as they leave; `signal` takes it back. Gives the finished XMLHttpRequest. */
function send(method, url, headers, body, { signal, progress = () => {} }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => request.abort(), SILENT_MS);
    };
    const abort = () => request.abort();
    const end = (settle, value) => {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      settle(value);
    };
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      alive();
      progress(event.loaded);
    };
    request.onload = () => (request.status < 400 ? end(resolve, request) : end(reject, problemOf(request)));
    request.onerror = request.onabort = () => end(reject, new Problem(0, { detail: "The reef cannot be reached." }));
    signal.addEventListener("abort", abort);
    if (signal.aborted) end(reject, new Problem(0, { detail: "Taken back." }));
    else {
      alive();
      request.send(body);
    }
  });
}

function problemOf(request) {
  if (request.status === 401) toLogin();
  let body = {};
  try {
    body = JSON.parse(request.responseText);
  } catch {
    // an answer of something between us and the reef: its status has to do
  }
  const retryAfterS = Number(request.getResponseHeader("Retry-After"));
  return new Problem(request.status, { ...(retryAfterS > 0 ? { retry_after_s: retryAfterS } : {}), ...body });
}

/** Several small files in one request; gives the ids of their documents. */
export async function sendTogether(uploadId, entries, options) {
  const form = new FormData();
  form.append("upload_id", uploadId);
  for (const entry of entries) form.append("paths", entry.path);
  for (const entry of entries) form.append("file", entry.file, entry.file.name);
  const request = await send("POST", `${V1}/documents/upload`, { Accept: "application/json" }, form, options);
  return JSON.parse(request.responseText).documents.map((one) => one.document_id);
}

const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

/** Announce a large file; gives its id. */
export async function begin(uploadId, entry, options) {
  const metadata = `relativePath ${base64(entry.path)},upload_id ${base64(uploadId)}`;
  const headers = { ...TUS, "Upload-Length": String(entry.size), "Upload-Metadata": metadata };
  const request = await send("POST", FILES, headers, null, options);
  return request.getResponseHeader("Location").split("/").at(-1);
}

/** How many bytes of a large file are there. */
export async function offsetOf(documentId, options) {
  const request = await send("GET", `${FILES}/${encodeURIComponent(documentId)}`, TUS, null, options);
  return Number(request.getResponseHeader("Upload-Offset"));
}

/** The next part of a large file; gives where it ends now. */
export async function sendPart(documentId, entry, offset, options) {
  const headers = { ...TUS, "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" };
  const part = entry.file.slice(offset, offset + PART_BYTES);
  const request = await send("PATCH", `${FILES}/${encodeURIComponent(documentId)}`, headers, part, options);
  return Number(request.getResponseHeader("Upload-Offset"));
}
