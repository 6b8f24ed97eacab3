// The documents page: makes the parts and joins them.

import { byId } from "../dom.js";
import { announcer, connectionBanner } from "../views/notices.js";
import { themeToggle } from "../views/theme.js";
import { Adding } from "./adding.js";
import { Ask } from "./ask.js";
import { Board } from "./board.js";
import { DocumentList, emptyStates } from "./list.js";
import { Shelf } from "./shelf.js";
import { Tools } from "./tools.js";
import { troubleNotice } from "./trouble.js";
import { UploadCards } from "./upload_cards.js";
import { Uploads } from "./uploads.js";

const AGAIN_MS = 3_000;

/** Until it works: a page that was opened while the reef starts fills itself. */
async function untilDone(board, action) {
  for (;;) {
    try {
      return await action();
    } catch (problem) {
      board.trouble(problem);
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }
}

async function start() {
  const board = new Board();
  const shelf = new Shelf(board);
  const uploads = new Uploads(board);
  themeToggle();
  announcer(board);
  troubleNotice(board);
  connectionBanner(board, "Connection lost, trying again… Work goes on; what you see here may be old.");
  const tools = new Tools(board, shelf);
  const list = new DocumentList(board, shelf, { remove: (documents) => tools.remove(documents), retry: (documents) => tools.retry(documents) });
  emptyStates(board, shelf);
  new UploadCards(board, uploads);
  new Adding(board, uploads);
  new Ask(board);
  byId("skip-list").addEventListener("click", (event) => {
    event.preventDefault();
    list.focus();
  });
  board.live.start();
  await Promise.all([untilDone(board, () => board.loadPersonas()), untilDone(board, () => uploads.start()), shelf.filter({})]);
  document.documentElement.dataset.ready = "true";
}

start();
