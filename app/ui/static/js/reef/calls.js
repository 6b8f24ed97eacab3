// Calls to the API of the whole reef, beside those of api.js.

import { call } from "../api.js";

const V1 = "/api/v1/system";
const id = encodeURIComponent;
const LOAD_WITHIN_MS = 60_000;

export const jobs = (state, limit) => call("GET", `${V1}/jobs?${new URLSearchParams({ state, limit })}`).then((answer) => answer.jobs);
export const cancel = (jobId) => call("POST", `${V1}/jobs/${id(jobId)}/cancel`);
export const retry = (jobId) => call("POST", `${V1}/jobs/${id(jobId)}/retry`);
export const discard = (jobId) => call("DELETE", `${V1}/jobs/${id(jobId)}`);

export const history = (after) => call("GET", `${V1}/history?${new URLSearchParams({ after })}`);

export const place = (node, pool, model) => call("POST", `${V1}/devices/${id(node)}/place`, { pool, model });
export const takeBack = (node) => call("DELETE", `${V1}/devices/${id(node)}/place`);

export const models = () => call("GET", `${V1}/models`).then((answer) => answer.models);
/** `from`: {source, sha256} of a model that is neither here nor in the catalogue. */
export const load = (model, pool, from = {}) => call("POST", `${V1}/models/load`, { model, pool, ...from }, {}, LOAD_WITHIN_MS);
export const unload = (model, pool) => call("POST", `${V1}/models/unload`, { model, pool }, {}, LOAD_WITHIN_MS);
export const pin = (model, pinned) => call("POST", `${V1}/models/${id(model)}/pin`, { pinned });
export const removeModel = (model) => call("DELETE", `${V1}/models/${id(model)}`);
