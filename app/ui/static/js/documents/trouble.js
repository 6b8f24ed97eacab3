// What went wrong, in words, until somebody has read it.

import { byId } from "../dom.js";

export function troubleNotice(board) {
  const notice = byId("trouble");
  const words = byId("trouble-words");
  board.on("trouble", (problem) => {
    words.textContent = problem.message;
    notice.hidden = false;
  });
  byId("trouble-close").addEventListener("click", () => {
    notice.hidden = true;
  });
}
