// The chat page: makes the parts and joins them. Addresses: / is a new chat, /chat/ID is that chat.

import { Store } from "./store.js";
import { Composer } from "./views/composer.js";
import { confirm } from "./views/confirm.js";
import { Header } from "./views/header.js";
import { announcer, connectionBanner } from "./views/notices.js";
import { PersonaDialog } from "./views/persona_dialog.js";
import { shortcuts } from "./views/shortcuts.js";
import { Sidebar } from "./views/sidebar.js";
import { themeToggle } from "./views/theme.js";
import { ThreadView } from "./views/thread.js";

const STATUS_EVERY_MS = 15_000;
const STATUS_LOADING_EVERY_MS = 2_000;

const store = new Store();
let composer;

function newChat(personaId) {
  if (location.pathname !== "/") history.pushState(null, "", "/");
  const unsent = store.outbox.takeBackNew();
  store.newChat(personaId ?? store.current?.id ?? null);
  if (unsent) composer.putBack(unsent);
  composer.field.focus();
}

/** A new chat in place of one in which nothing can be said, with what was written for it. */
function newChatInstead() {
  const written = [store.outbox.takeBack(), composer.takeDraft()].filter(Boolean).join("\n");
  newChat();
  if (written) composer.putBack(written);
}

/** The message goes back into the field; a chat that was made for it alone goes with it. */
function takeBack() {
  const { entry, sessionId, messages } = store.view;
  if (store.orphaned || store.view.problem) return newChatInstead();
  const text = store.outbox.takeBack();
  if (entry?.begun && !messages.some((message) => message.role === "user")) {
    history.replaceState(null, "", "/");
    store.newChat();
    store.deleteSession(sessionId).catch(() => {});
  }
  return composer.putBack(text);
}

async function openSession(sessionId) {
  history.pushState(null, "", chatAddress(sessionId));
  await store.openSession(sessionId);
  composer.field.focus();
}

async function deleteSession(sessionId, title) {
  const agreed = await confirm({ title: "Delete this chat?", text: `“${title}” and every message in it will be gone.`, yes: "Delete the chat" });
  if (!agreed) return;
  try {
    await store.deleteSession(sessionId);
    if (!store.view.sessionId) history.replaceState(null, "", "/");
    composer.field.focus();
  } catch (problem) {
    store.trouble(problem);
  }
}

const attempt = (action) => action.catch((problem) => store.trouble(problem));

/** Write the last reply anew, or, where none was kept, say the last message again. */
function askAgain(turn) {
  if (turn.role === "assistant" && turn.message) return attempt(store.regenerate(turn.message));
  const last = store.view.messages.findLast((message) => message.role === "user");
  return last ? attempt(store.edit(last, last.content)) : null;
}

/** Take the last message into the field, to be sent again in other words. */
function editLast() {
  const last = store.view.messages.findLast((message) => message.role === "user");
  if (last) composer.edit(last);
}

const chatAddress = (sessionId) => `/chat/${encodeURIComponent(sessionId)}`;

function sessionInAddress() {
  const match = /^\/chat\/([^/]+)$/.exec(location.pathname);
  return match ? decodeURIComponent(match[1]) : null;
}

async function showAddress() {
  const sessionId = sessionInAddress();
  if (sessionId) await store.openSession(sessionId);
  else store.resumeNewChat();
}

async function watchStatus() {
  if (document.visibilityState === "visible") await store.loadStatus();
  const loading = store.status?.pools?.some((pool) => pool.devices.some((device) => device.state === "loading"));
  setTimeout(watchStatus, loading || !store.status ? STATUS_LOADING_EVERY_MS : STATUS_EVERY_MS);
}

async function start() {
  const personaDialog = new PersonaDialog(store);
  const thread = new ThreadView(store, {
    newChatInstead,
    edit: (message) => composer.edit(message),
    regenerate: (message) => attempt(store.regenerate(message)),
    editLast,
    editPersona: (persona) => personaDialog.open(persona),
    goOn: (message) => attempt(store.goOn(message)),
    askAgain,
    sendAgain: () => store.outbox.again(),
    takeBack,
  });
  composer = new Composer(store, thread, { newChatInstead });
  const sidebar = new Sidebar(store, { newChat, openSession, editPersona: (persona) => personaDialog.open(persona) });
  new Header(store, { deleteSession });
  connectionBanner(store);
  announcer(store);
  themeToggle();
  shortcuts({ store, sidebar, composer, newChat });
  store.on("begun", () => history.replaceState(null, "", chatAddress(store.view.sessionId)));
  addEventListener("popstate", showAddress);
  addEventListener("online", () => store.outbox.connected());
  addEventListener("focus", () => store.refreshSoon());
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && store.refreshSoon());

  store.live.start();
  watchStatus();
  store.sessionsFetched.now();
  await Promise.all([store.personasFetched.now(), showAddress()]);
  if (matchMedia("(hover: hover)").matches) composer.field.focus();
  document.documentElement.dataset.ready = "true";
}

start();
