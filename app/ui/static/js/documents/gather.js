// The files a person means: from a drop (folders are walked), or from a file or folder field. Each as {path, file}.

const byName = new Intl.Collator("en", { numeric: true });
const HIDDEN = /(^|\/)(\.[^/]|__MACOSX(\/|$)|(Thumbs\.db|desktop\.ini)$)/i;

/** From a field; a folder field says where in the folder each file was. */
export function fromField(input) {
  return [...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

/** From a drop. Must be called within the event: a DataTransfer is empty after it. `found(count)` while folders are read. */
export async function fromDrop(transfer, found = () => {}) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const roots = items.map((item) => item.webkitGetAsEntry?.() ?? null);
  if (!roots.some(Boolean)) return [...transfer.files].map((file) => ({ path: file.name, file }));
  const files = [];
  const waiting = roots.filter(Boolean);
  while (waiting.length) {
    const entry = waiting.shift();
    if (entry.isDirectory) waiting.push(...(await listed(entry)));
    else files.push({ path: entry.fullPath.replace(/^\//, ""), file: await opened(entry) });
    if (files.length % 200 === 0) found(files.length);
  }
  return files.filter(({ file }) => file);
}

/** A reader gives a hundred entries at a time and nothing at the end. A folder that cannot be read has none. */
async function listed(directory) {
  const reader = directory.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!some.length) return all;
    all.push(...some);
  }
}

const opened = (entry) => new Promise((resolve) => entry.file(resolve, () => resolve(null)));

/** What systems leave behind is not meant: {wanted, hidden}; the wanted in the order of their names. */
export function withoutHidden(files) {
  const wanted = files.filter(({ path }) => !HIDDEN.test(path)).sort((one, two) => byName.compare(one.path, two.path));
  return { wanted, hidden: files.length - wanted.length };
}

/** As many uploads as the limits ask for, in order. */
export function divide(files, { files_max: filesMax, upload_bytes_max: bytesMax }) {
  const parts = [];
  let part = null;
  let size = 0;
  for (const one of files) {
    if (!part || part.length >= filesMax || size + one.file.size > bytesMax) {
      part = [];
      size = 0;
      parts.push(part);
    }
    part.push(one);
    size += one.file.size;
  }
  return parts;
}

/** What an upload of these files is called. */
export function nameOf(files) {
  const [first] = files;
  const tops = new Set(files.map(({ path }) => (path.includes("/") ? path.split("/")[0] : "")));
  const [top] = tops;
  if (tops.size === 1 && top) return top;
  return files.length === 1 ? first.path : `${first.path.split("/").at(-1)} and ${files.length - 1} more`;
}
