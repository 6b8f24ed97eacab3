// The chat that is shown, as plain values: what the store keeps of it.

export function emptyView(sessionId, personaId, entry = null) {
  return { sessionId, personaId, session: null, messages: [], entry, ended: [], loading: false, problem: null };
}

/** What a person said, as the history will have it. */
export function userMessage(entry, answer) {
  return {
    id: answer.prompt_message_id,
    key: entry.key,
    session_id: answer.session_id,
    role: "user",
    content: entry.text,
    created_at: Date.now() / 1000,
  };
}

export function isActive(run, history) {
  return history.active_runs.some((active) => active.run_id === run.id);
}

/** The messages of a chat with what is on its way in and out: [{key, role, message?, run?, entry?}]. */
export function turnsOf(view, runs) {
  const turns = view.messages.map((message) => turn(message, runs));
  if (view.entry) turns.push({ key: view.entry.key, role: "user", entry: view.entry });
  const shown = new Set(turns.map((told) => told.key));
  for (const run of [...view.ended, ...runs.activeIn(view.sessionId)]) {
    const key = `run:${run.id}`;
    if (!shown.has(key)) turns.push({ key, role: "assistant", run });
    shown.add(key);
  }
  return turns;
}

function turn(message, runs) {
  const run = message.role === "assistant" && message.run_id ? runs.get(message.run_id) : null;
  const key = message.role === "assistant" && message.run_id ? `run:${message.run_id}` : message.key ?? message.id;
  return { key, role: message.role, message, run };
}
