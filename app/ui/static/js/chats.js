// The list of chats, newest first, a page at a time. Knows no DOM.

import * as api from "./api.js";

const PAGE = 100;
const REFRESHED_MAX = 500;

export class Chats {
  constructor() {
    this.list = [];
    this.query = "";
    this.next = null; // where the list goes on, null: it ends here
  }

  /** The list of a search, or the same list anew: as much of it as is shown. Answers whether it is still wanted. */
  async load(query) {
    const kept = query === this.query ? this.list : [];
    this.query = query;
    const limit = Math.min(Math.max(kept.length, PAGE), REFRESHED_MAX);
    const { sessions, next } = await api.sessions(query, { limit });
    if (query !== this.query) return false;
    // what is beyond the part that was asked for stays, and so does the place where it goes on
    const known = new Set(sessions.map((session) => session.id));
    const oldest = sessions.at(-1)?.updated_at ?? 0;
    const tail = next && kept.length > limit ? kept.slice(limit).filter((session) => !known.has(session.id) && session.updated_at <= oldest) : [];
    this.list = [...sessions, ...tail];
    if (!tail.length) this.next = next;
    return true;
  }

  /** The page after the last chat of the list. Answers those that came. */
  async loadEarlier() {
    const { query, next: before } = this;
    if (!before) return [];
    const { sessions, next } = await api.sessions(query, { limit: PAGE, before });
    if (query !== this.query || before !== this.next) return [];
    const known = new Set(this.list.map((session) => session.id));
    const come = sessions.filter((session) => !known.has(session.id));
    this.list = [...this.list, ...come];
    this.next = next;
    return come;
  }

  drop(sessionId) {
    this.list = this.list.filter((session) => session.id !== sessionId);
  }
}
