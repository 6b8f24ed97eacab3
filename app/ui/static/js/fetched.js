// A list that the page stands on: on its way, here, or not to be had just now. Then it is asked for again until it is
// here, and nobody takes "not heard yet" for "none".

import { Problem } from "./api.js";

export const AGAIN_MS = 4_000;

export class Fetched {
  /** `fetch()` gets the list and puts it where it belongs; `tell()` is called when the state changed. */
  constructor(fetch, tell) {
    this.fetch = fetch;
    this.tell = tell;
    this.state = "loading";
    this.problem = null;
  }

  /** Ask for it now. What is here stays while a later question fails. */
  async now() {
    clearTimeout(this.timer);
    const before = this.state;
    try {
      await this.fetch();
      this.state = "here";
      this.problem = null;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.problem = problem;
      if (before !== "here") this.state = "failed";
      this.timer = setTimeout(() => this.now(), AGAIN_MS);
    }
    if (before !== this.state) this.tell();
  }

  /** A person asks for it: show that it is on its way. */
  again() {
    if (this.state === "failed") {
      this.state = "loading";
      this.tell();
    }
    return this.now();
  }
}
