// The page of the whole reef: makes the parts and joins them.

import { byId } from "../dom.js";
import { announcer } from "../views/notices.js";
import { themeToggle } from "../views/theme.js";
import { Toasts } from "../views/toasts.js";
import { Board } from "./board.js";
import { Charts } from "./charts.js";
import { DeviceDialog } from "./device_dialog.js";
import { Grid } from "./grid.js";
import { Head } from "./head.js";
import { Jobs } from "./jobs.js";
import { Models } from "./models.js";
import { Queues } from "./queues.js";

function start() {
  const board = new Board();
  themeToggle();
  announcer(board);
  new Toasts(board);
  new Head(board);
  new Charts(board);
  new Queues(board);
  const models = new Models(board);
  const dialog = new DeviceDialog(board, () => models.names);
  const grid = new Grid(board, (node) => dialog.open(node));
  new Jobs(board);
  byId("skip-devices").addEventListener("click", (event) => {
    event.preventDefault();
    grid.focus();
  });
  board.on("change", () => {
    byId("loading").hidden = true;
    byId("parts").hidden = false;
    document.documentElement.dataset.ready = "true";
  });
  board.start();
}

start();
