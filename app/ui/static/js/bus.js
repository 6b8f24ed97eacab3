// What the parts of a page tell each other: topics with details, words for the live region, answers, and trouble.

export class Bus extends EventTarget {
  on(topic, listener) {
    this.addEventListener(topic, (event) => listener(event.detail));
  }

  emit(topic, detail) {
    this.dispatchEvent(new CustomEvent(topic, { detail }));
  }

  say(words, urgent = false) {
    this.emit("say", { words, urgent });
  }

  /** What came of something that a person did. */
  answer(words) {
    this.emit("answer", words);
    this.say(words);
  }

  trouble(problem) {
    this.emit("trouble", problem);
    this.say(problem.message, true);
  }
}
