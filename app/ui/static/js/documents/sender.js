// Sends the files of one upload: a few requests at a time, small files together, large ones in parts that go on where
// they ended. A failure that passes is waited for; one that does not belongs to its file and is told in words.
//
// An entry: {path, file, size, state, sent, reason, documentId}; states: waiting, sending, sent, failed.

import * as calls from "./calls.js";
import * as transfer from "./transfer.js";
import { bytes, isArchive } from "./words.js";

const LANES = 3;
const SMALL_BYTES = 1024 * 1024;
const TOGETHER_BYTES = 2 * 1024 * 1024;
const TOGETHER_FILES = 16;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 10_000;
const DISK_FULL = 507;
const WRONG_OFFSET = 409;

export class Sender {
  /** `changed()` is called whenever something moved. */
  constructor(uploadId, files, limits, changed) {
    this.uploadId = uploadId;
    this.changed = changed;
    this.entries = files.map(({ path, file }) => ({ path, file, size: file.size, state: "waiting", sent: 0, reason: "", documentId: null }));
    /** "new", "sending", "paused" or "ended" */
    this.state = "new";
    this.trouble = "";
    this.unsure = false;
    for (const entry of this.entries) {
      const most = bytesMax(entry.path, limits);
      if (entry.size > most) this.#fail(entry, `This file has ${bytes(entry.size)}; ${isArchive(entry.path) ? "an archive" : "a document"} may have ${bytes(most)}.`, false);
    }
  }

  get totals() {
    const totals = { files: this.entries.length, bytes: 0, sentBytes: 0, sentFiles: 0, failed: 0 };
    for (const entry of this.entries) {
      totals.bytes += entry.size;
      totals.sentBytes += entry.sent;
      totals.sentFiles += entry.state === "sent" ? 1 : 0;
      totals.failed += entry.state === "failed" ? 1 : 0;
    }
    return totals;
  }

  in(state) {
    return this.entries.filter((entry) => entry.state === state);
  }

  /** Send what is left. With `unsure` some of it may have arrived already: then the server is asked first. */
  async start(unsure = this.unsure) {
    if (this.state === "sending") return;
    this.state = "sending";
    this.trouble = "";
    this.hold = new AbortController();
    const { hold } = this;
    this.next = this.entries.filter((entry) => entry.state === "waiting");
    this.changed();
    if (unsure) await this.#persist(hold, () => this.#askWhatArrived());
    await Promise.all(Array.from({ length: LANES }, () => this.#lane(hold)));
    if (hold.signal.aborted) return;
    await this.#persist(hold, () => calls.changeUpload(this.uploadId, "close"));
    if (hold.signal.aborted) return;
    this.state = "ended";
    this.changed();
  }

  /** Stop sending; what was on its way goes on from where it is. */
  pause(trouble = "") {
    if (this.state !== "sending") return;
    this.state = "paused";
    this.trouble = trouble;
    this.unsure = true;
    this.hold.abort();
    for (const entry of this.in("sending")) entry.state = "waiting";
    this.changed();
  }

  /** Stop for good. */
  end() {
    this.pause();
    this.state = "ended";
  }

  /** Whether files failed here that could go better another time. */
  get retriable() {
    return this.entries.some((entry) => entry.state === "failed" && entry.again);
  }

  retry() {
    for (const entry of this.entries) {
      if (entry.state === "failed" && entry.again) Object.assign(entry, { state: "waiting", reason: "", sent: 0, documentId: null });
    }
    if (this.state === "ended") this.state = "paused";
    return this.start(true);
  }

  async #lane(hold) {
    while (!hold.signal.aborted) {
      const work = this.#take();
      if (!work.length) return;
      for (const entry of work) entry.state = "sending";
      this.changed();
      await (work.length === 1 && work[0].size > SMALL_BYTES ? this.#sendLarge(hold, work[0]) : this.#sendSmall(hold, work));
      if (!hold.signal.aborted) this.changed();
    }
  }

  /** The next large file, or as many of the next small ones as go together. */
  #take() {
    const work = [];
    let size = 0;
    while (this.next.length) {
      const [entry] = this.next;
      if (entry.state !== "waiting") {
        this.next.shift();
        continue;
      }
      const fits = entry.size <= SMALL_BYTES && size + entry.size <= TOGETHER_BYTES && work.length < TOGETHER_FILES;
      if (work.length && !fits) break;
      work.push(this.next.shift());
      size += entry.size;
      if (entry.size > SMALL_BYTES) break;
    }
    return work;
  }

  async #sendSmall(hold, entries) {
    const progress = (loaded) => {
      let left = loaded;
      for (const entry of entries) {
        entry.sent = Math.min(entry.size, left);
        left = Math.max(0, left - entry.size);
      }
      this.changed();
    };
    await this.#attempt(hold, entries, async () => {
      const waiting = entries.filter((entry) => entry.state === "sending");
      if (!waiting.length) return;
      const ids = await transfer.sendTogether(this.uploadId, waiting, { signal: hold.signal, progress });
      waiting.forEach((entry, index) => this.#sent(entry, ids[index]));
    });
  }

  async #sendLarge(hold, entry) {
    const options = { signal: hold.signal };
    await this.#attempt(hold, [entry], async () => {
      if (entry.state !== "sending") return;
      let offset = entry.documentId ? await transfer.offsetOf(entry.documentId, options) : 0;
      entry.documentId ??= await transfer.begin(this.uploadId, entry, options);
      const progress = (loaded) => {
        entry.sent = Math.min(entry.size, offset + loaded);
        this.changed();
      };
      while (offset < entry.size) offset = await transfer.sendPart(entry.documentId, entry, offset, { ...options, progress });
      this.#sent(entry, entry.documentId);
    });
  }

  /** Do this for these entries until it is done, or they failed for good, or the sender is held. */
  async #attempt(hold, entries, action) {
    try {
      await this.#persist(hold, action, async (problem) => {
        await Promise.all(entries.map((entry) => this.#checkReadable(entry)));
        // a part that was not where the file ends is a matter of asking where it ends
        if (problem.status === WRONG_OFFSET && entries[0].documentId) return true;
        if (problem.unreachable && entries.some((entry) => entry.state === "sending" && !entry.documentId)) await this.#askWhatArrived();
        return transfer.passing(problem);
      });
    } catch (problem) {
      if (problem.status === DISK_FULL) this.pause(problem.message);
      else if (await this.#isGone(problem)) this.#abandon(problem);
      else if (entries.length > 1) for (const entry of entries) await this.#alone(hold, entry);
      else this.#fail(entries[0], problem.message);
    }
  }

  /** One of several was refused, and with it all: each is tried by itself. */
  async #alone(hold, entry) {
    if (entry.state === "sending" && !hold.signal.aborted) await this.#sendSmall(hold, [entry]);
  }

  /** Try until it works; a failure that `passes(problem)` does not let pass is thrown. */
  async #persist(hold, action, passes = transfer.passing) {
    for (let failures = 0; !hold.signal.aborted; ) {
      try {
        const result = await action();
        this.trouble = "";
        return result;
      } catch (problem) {
        if (hold.signal.aborted) return undefined;
        let again = false;
        try {
          again = await passes(problem);
        } catch {
          again = true;
        }
        if (!again) throw problem;
        failures += 1;
        const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** failures);
        const waitMs = problem.retryAfterS ? problem.retryAfterS * 1000 : ceiling / 2 + (Math.random() * ceiling) / 2;
        this.trouble = `${problem.message} Trying again…`;
        this.changed();
        await this.#wait(hold, waitMs);
      }
    }
    return undefined;
  }

  #wait(hold, ms) {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        removeEventListener("online", end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      addEventListener("online", end, { once: true });
      hold.signal.addEventListener("abort", end, { once: true });
    });
  }

  /** What is there already is not sent again, and what is there in part goes on. */
  async #askWhatArrived() {
    const here = new Map();
    for (const document of await calls.everyDocument({ upload_id: this.uploadId }, this.entries.length + calls.LISTED_MAX)) {
      const known = here.get(document.name) ?? [];
      here.set(document.name, [...known, document]);
    }
    for (const entry of this.entries) {
      const same = here.get(entry.path) ?? [];
      const at = same.findIndex((document) => document.size_bytes === entry.size && !(document.state === "cancelled" && document.sha256 === null));
      if (at < 0) continue;
      const [document] = same.splice(at, 1);
      if (entry.state === "sent" || entry.state === "failed") continue;
      if (document.state === "receiving") entry.documentId = document.id;
      else this.#sent(entry, document.id);
    }
    this.unsure = false;
  }

  /** A file that was changed, moved or deleted since it was chosen looks like a lost connection. */
  async #checkReadable(entry) {
    if (entry.state !== "sending") return;
    try {
      await entry.file.slice(0, 1).arrayBuffer();
    } catch {
      this.#fail(entry, "This file cannot be read any more: it was changed, moved or deleted since it was chosen.");
    }
  }

  async #isGone(problem) {
    if (problem.status !== 404 && problem.status !== 409) return false;
    const upload = await calls.upload(this.uploadId).catch((error) => error);
    return upload.status === 404 || upload.state === "cancelled";
  }

  /** The upload takes no more files, whatever they are. */
  #abandon(problem) {
    if (this.state === "ended") return;
    this.end();
    this.trouble = problem.message;
    this.changed();
  }

  #sent(entry, documentId) {
    Object.assign(entry, { state: "sent", sent: entry.size, documentId, file: null });
  }

  #fail(entry, reason, again = true) {
    Object.assign(entry, { state: "failed", sent: 0, reason, again });
  }
}

function bytesMax(name, { file_bytes_max: archive, document_bytes_max: document }) {
  return isArchive(name) ? archive : Math.min(document, archive);
}
