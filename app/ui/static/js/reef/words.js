// How devices, jobs and figures of the reef are told to a person.

const STATES = { loading: "Loading", ready: "Ready", draining: "Finishing", failed: "Failed", quarantined: "Quarantined", missing: "Not running" };
const TIERS = {
  pool: "",
  hot: "Hot: always loaded",
  warm: "Warm: next models in memory",
  cold: "Cold: bulk work until needed",
  dedicated: "Belongs to a persona",
  service: "Serves its pool for all",
  reserve: "In reserve",
  stage: "One segment of a pipeline",
};
/** Of reef/contracts/jobs.py; a job that names a model says it after its word. */
const TASKS = {
  "coralreef.chat.generate": "Reply",
  "coralreef.chat.complete": "Completion",
  "coralreef.index.parse": "Read files",
  "coralreef.embed.documents": "Embed files",
  "coralreef.index.write": "Write the index",
  "coralreef.embed.ground": "Look into documents",
  "coralreef.embed.query": "Search",
  "coralreef.embed.texts": "Embed texts",
  "coralreef.media.infer": "Run",
  "coralreef.maintenance.fetch_model": "Fetch",
};
/** States in which a device serves nothing: those of reef/observing/overview.py. */
const DOWN = new Set(["missing", "failed", "quarantined"]);

export const isDown = (device) => DOWN.has(device.state);
/** It is left alone and nothing serves in its place. */
export const inQuarantine = (device, now) => !device.fallback && (device.state === "quarantined" || device.quarantined_until > now);
export const inTrouble = (device, now) => isDown(device) || device.fallback || inQuarantine(device, now) || device.health.throttled === true;
export const isBusy = (device) => !isDown(device) && device.running > 0;
/** What was decided is not what the worker does yet. */
export const isMoving = (device) => device.place !== null && !isDown(device) && device.place.version !== device.place_version;

/** The process that holds WebSockets and serves gRPC. */
export const gatewayWords = (state) => ({ ok: "In order", down: "Down", off: "Not in use" })[state] ?? "Not known";

export const taskWords = (task) => TASKS[task] ?? task.split(".").slice(1).join(" ");
export const tierWords = (tier) => TIERS[tier] ?? tier;

/** The state in one or two words: the most telling thing about a device. */
export function stateWords(device, now) {
  if (device.fallback && !isDown(device)) return "On the CPU";
  if (inQuarantine(device, now)) return "Quarantined";
  if (device.state === "ready" && device.loading) return "Swapping";
  if (device.state === "ready" && device.running > 0) return "Busy";
  return STATES[device.state] ?? device.state;
}

/** For the colour of its dot: the states of base.css. */
export function dotState(device, now) {
  if (isDown(device) || inQuarantine(device, now)) return "failed";
  return device.fallback || device.loading ? "loading" : device.state;
}

export const rate = (value) => (value >= 100 ? String(Math.round(value)) : value.toFixed(1));

export function ratesWords(device) {
  const parts = [];
  if (device.tokens_per_s > 0) parts.push(`${rate(device.tokens_per_s)} tokens/s`);
  if (device.inferences_per_s > 0) parts.push(`${rate(device.inferences_per_s)} inferences/s`);
  return parts.join(" · ");
}

/** The same where there is little room. */
export function shortRate(device) {
  if (device.tokens_per_s > 0) return `${rate(device.tokens_per_s)} tok/s`;
  return device.inferences_per_s > 0 ? `${rate(device.inferences_per_s)} inf/s` : "";
}

export function heatWords({ temperature_c: degrees, throttled }) {
  if (degrees === undefined || degrees === null) return throttled ? "slowed by heat" : "";
  return `${Math.round(degrees)} °C${throttled ? ", slowed by heat" : ""}`;
}

/** A model's name without what can be said elsewhere: folders, the ending, the settings of a simulated one. */
export const shortModel = (name) => name.split("/").at(-1).replace(/\.(gguf|tflite|onnx)$/, "").split(":")[0];

export function streamsWords(device) {
  return `${device.running} of ${device.streams} ${device.streams === 1 ? "stream" : "streams"} in use`;
}

/** How long something took or takes. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const value = Math.max(0, seconds);
  if (value < 1) return "< 1 s";
  if (value < 100) return `${Math.round(value)} s`;
  if (value < 5_400) return `${Math.round(value / 60)} min`;
  return value < 129_600 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86_400)} days`;
}

export const clockTime = (unixS) => new Date(unixS * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** What is wrong with a device or being done to it: one line, or nothing. */
export function noteWords(device, now) {
  const next = device.quarantined_until > now ? ` Next try at ${clockTime(device.quarantined_until)}.` : "";
  if (device.fallback && !isDown(device)) return `The CPU does its work. ${device.last_fault}${next}`;
  if (inQuarantine(device, now)) return `${device.last_fault || "It failed again and again."}${next}`;
  if (isDown(device)) return device.last_fault || sentence(device.note);
  if (device.loading) return `Loading ${shortModel(device.loading)}, ${Math.round(device.progress * 100)} %`;
  if (device.state === "loading") return `${Math.round(device.progress * 100)} %${device.note ? ` · ${device.note}` : ""}`;
  if (isMoving(device)) return device.place.pool && device.place.pool !== device.pool ? `On its way to ${device.place.pool}` : "Taking its new place";
  return sentence(device.note);
}

const sentence = (words) => (words ? `${words[0].toUpperCase()}${words.slice(1)}` : "");

/** Everything about a device that its tile shows, for who hears it. */
export function deviceLabel(device, now) {
  const parts = [device.node, device.simulated ? "simulated" : "", stateWords(device, now), device.pool && `pool ${device.pool}`, device.model && shortModel(device.model)];
  if (!isDown(device)) parts.push(streamsWords(device), ratesWords(device), heatWords(device.health));
  if (device.waiting) parts.push(`${device.waiting} waiting for it`);
  parts.push(noteWords(device, now));
  return parts.filter(Boolean).join(", ");
}
