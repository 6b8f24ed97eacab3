// Which pools a model can be loaded in, or is. Asks the server's list where it tells one.

const POOL_OF = { gguf: "chat", lora: "chat", tflite: "media" };
/** An encoder is in none: the vectors of all documents belong to it, so it is not exchanged while the reef runs. */
const SUFFIX = /\.(gguf|tflite|onnx)(?=$|[?#])/i;

/** Pools that can take it and have a device. */
export function poolsFor(model, board) {
  const fitting = model.pools ?? [POOL_OF[model.format]].filter(Boolean);
  return fitting.filter((name) => board.devicesOf(name).length > 0);
}

/** Pools whose devices have it in memory though it is not their own. */
export function poolsWith(model, board) {
  const where = new Set(model.where);
  return [...board.pools.values()]
    .filter((pool) => pool.model !== model.name && board.devicesOf(pool.name).some((device) => where.has(device.node)))
    .map((pool) => pool.name);
}

export const formatOf = (address) => SUFFIX.exec(address)?.[1].toLowerCase() ?? "gguf";

/** The name a model gets from its address, as the server would give it. */
export function nameFrom(address) {
  const last = address.split(/[?#]/)[0].split("/").at(-1).toLowerCase();
  return last.replace(SUFFIX, "").replace(/[^a-z0-9._-]/g, "-").replace(/^[._-]+/, "").slice(0, 64);
}
