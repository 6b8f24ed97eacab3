// Calls to the API of documents and uploads, beside those of api.js. What sends the bytes of files is transfer.js.

import { call } from "../api.js";

const V1 = "/api/v1";
const id = encodeURIComponent;
const SEARCH_WITHIN_MS = 65_000;
const AT_ONCE = 4;
export const LISTED_MAX = 500;

export const limits = () => call("GET", `${V1}/uploads/limits`);
export const uploads = (limit) => call("GET", `${V1}/uploads?limit=${limit}`).then((answer) => answer.uploads);
export const upload = (uploadId) => call("GET", `${V1}/uploads/${id(uploadId)}`);
export const createUpload = (name, stores) => call("POST", `${V1}/uploads`, { name, stores });
/** `action`: close, pause, resume, cancel or retry. */
export const changeUpload = (uploadId, action) => call("POST", `${V1}/uploads/${id(uploadId)}/${action}`);

/** {documents, total}; empty values do not restrict. */
export function documents(wanted, limit, offset = 0) {
  const given = Object.entries({ ...wanted, limit, offset }).filter(([, value]) => value !== "");
  return call("GET", `${V1}/documents?${new URLSearchParams(given)}`);
}

/** Every document that fits, at most `max` of them. */
export async function everyDocument(wanted, max) {
  const found = [];
  for (;;) {
    const { documents: some, total } = await documents(wanted, LISTED_MAX, found.length);
    found.push(...some);
    if (!some.length || found.length >= Math.min(total, max)) return found.slice(0, max);
  }
}

export const document = (documentId) => call("GET", `${V1}/documents/${id(documentId)}`);
export const chunks = (documentId, offset) => call("GET", `${V1}/documents/${id(documentId)}/chunks?${new URLSearchParams({ limit: LISTED_MAX, offset })}`);
export const remove = (documentId) => call("DELETE", `${V1}/documents/${id(documentId)}`);
export const assign = (documentId, stores) => call("PUT", `${V1}/documents/${id(documentId)}/stores`, { stores });
export const retry = (documentId) => call("POST", `${V1}/documents/${id(documentId)}/retry`);
export const originalUrl = (documentId) => `${V1}/documents/${id(documentId)}/original`;
export const search = (question) => call("POST", `${V1}/documents/query`, question, {}, SEARCH_WITHIN_MS);

export const pageOf = (documentId, chunkId = null) => `/documents/${id(documentId)}${chunkId === null ? "" : `?chunk=${chunkId}`}`;

/** Do the same to many, a few at a time: {done: [value], failed: [{item, problem}]}. */
export async function toEach(items, action, progress = () => {}) {
  const waiting = [...items];
  const result = { done: [], failed: [] };
  const lane = async () => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) {
      try {
        result.done.push((await action(item)) ?? item);
      } catch (problem) {
        result.failed.push({ item, problem });
      }
      progress(result.done.length + result.failed.length);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  return result;
}
