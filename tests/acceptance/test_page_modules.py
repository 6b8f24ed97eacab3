"""The page's own modules, run in the browser: how a reply is put together from events that come twice, late or anew."""

from __future__ import annotations

from typing import Any

import pytest
from chat_page import ChatPage

APPLY = """async ([url, synced, events]) => {
  const { Run } = await import(url);
  const run = new Run({ runId: "r", sessionId: "s" });
  if (synced) run.apply({ type: "resumed", run_id: "r", after_seq: 0, state: "running" });
  const changes = events.map((event) => run.apply({ run_id: "r", ...event }));
  return { text: run.text, phase: run.phase, cursor: run.cursor, restarted: run.restarted, position: run.position,
           messageId: run.messageId, changes };
}"""


def token(seq: int, content: str) -> dict[str, Any]:
    """A token event."""
    return {"type": "token", "seq": seq, "content": content}


def applied(chat: ChatPage, *events: dict[str, Any], synced: bool = True) -> Any:
    """A fresh run after these events; `synced`: the server has confirmed the page's resume before them."""
    return chat.page.evaluate(APPLY, [chat.script_url("run.js"), synced, list(events)])


STARTED = {"type": "started", "seq": 1_000_001, "persona_id": "alice", "device": "cpu", "model": "m"}
TYPING = {"type": "typing", "seq": 1_000_002, "persona_id": "alice"}
DONE = {"type": "done", "seq": 1_000_009, "message_id": "m1", "usage": {"prompt": 1, "completion": 2}}


def test_page_run_drops_what_it_heard_before(chat: ChatPage) -> None:
    """Events that come again, as after a resume, change nothing."""
    events = [STARTED, TYPING, token(1_000_003, "Hi"), token(1_000_004, " there")]
    run = applied(chat, *events, *events, DONE, DONE)
    assert run["text"] == "Hi there"
    assert run["phase"] == "done"
    assert run["messageId"] == "m1"
    assert run["changes"][4:8] == ["", "", "", ""]
    assert run["changes"][-2:] == ["final", ""]


def test_page_run_sorts_what_comes_late(chat: ChatPage) -> None:
    """Live words that overtake the missed ones are set in their place."""
    run = applied(chat, STARTED, token(1_000_005, "c"), token(1_000_003, "a"), token(1_000_004, "b"))
    assert run["text"] == "abc"
    assert run["changes"][-1] == "replaced"


def test_page_run_begins_again_after_a_restart(chat: ChatPage) -> None:
    """`restarted` drops the partial text, and a straggler of the old attempt is not let in."""
    again = {"type": "restarted", "seq": 2_000_001, "reason": "worker died"}
    run = applied(chat, STARTED, token(1_000_003, "old"), again, token(1_000_004, " words"), token(2_000_004, "new"))
    assert run["text"] == "new"
    assert run["restarted"] is True
    assert run["phase"] == "writing"


def test_page_run_resumes_only_from_what_is_complete(chat: ChatPage) -> None:
    """Until the server confirmed a resume, the whole run is asked for again; after it, only what is missing."""
    assert applied(chat, STARTED, token(1_000_003, "a"), synced=False)["cursor"] == 0
    assert applied(chat, STARTED, token(1_000_003, "a"))["cursor"] == 1_000_003


def test_page_run_waits_for_its_resume(chat: ChatPage) -> None:
    """Words from the middle that come before the resume are not shown; the resume tells them from the beginning."""
    resumed = {"type": "resumed", "after_seq": 0, "state": "running"}
    middle, start = token(1_000_004, "b"), token(1_000_003, "a")
    run = applied(chat, middle, resumed, start, middle, synced=False)
    assert run["text"] == "ab"
    assert run["changes"] == ["", "", "appended", "appended"]


@pytest.mark.parametrize("phase", [STARTED, token(1_000_003, "a")])
def test_page_run_ignores_readings_that_are_out_of_date(chat: ChatPage, phase: dict[str, Any]) -> None:
    """A queue position that arrives after the start is not shown."""
    reading = {"type": "queued", "seq": 0, "position": 4, "wait_s": 3.0}
    assert applied(chat, reading)["position"] == 4
    assert applied(chat, phase, reading)["position"] is None


HELD = """async ([runUrl, wordsUrl, events]) => {
  const { Run } = await import(runUrl);
  const { phaseWords } = await import(wordsUrl);
  const run = new Run({ runId: "r", sessionId: "s" });
  run.apply({ type: "resumed", run_id: "r", after_seq: 0, state: "running" });
  return events.map((event) => {
    const change = run.apply({ run_id: "r", ...event });
    return [change, run.held, run.text, phaseWords(run, "Alice")];
  });
}"""


def test_page_run_says_why_nothing_happens_until_it_goes_on(chat: ChatPage) -> None:
    """A reading with a note is shown while waiting and in mid-reply; the next word of any attempt takes it away."""
    held = {"type": "queued", "seq": 0, "position": 1, "note": "No device answers right now."}
    again = {"type": "restarted", "seq": 2_000_001, "reason": "worker died"}
    twice = again | {"seq": 2_000_002}
    events = [held, STARTED, token(1_000_003, "Hi"), held, held, again, held, twice, held, token(2_000_004, "Ho")]
    urls = [chat.script_url("run.js"), chat.script_url("views/words.js")]
    told = chat.page.evaluate(HELD, [*urls, events])
    note = "No device answers right now."
    assert [one[:3] for one in told] == [
        ["phase", note, ""],
        ["phase", "", ""],
        ["appended", "", "Hi"],
        ["phase", note, "Hi"],
        ["", note, "Hi"],
        ["replaced", "", ""],
        ["phase", note, ""],
        ["phase", "", ""],
        ["phase", note, ""],
        ["replaced", "", "Ho"],
    ]
    assert told[0][3] == note
    assert told[6][3] == note


def test_page_words_of_a_device_that_is_out_of_use(chat: ChatPage) -> None:
    """One whose work the CPU does serves, whatever its device waits for; one that nothing stands in for does not."""
    fields = {"health": {}, "running": 0, "quarantined_until": 200, "last_fault": "It hung."}
    told = chat.page.evaluate(
        """async ([url, devices]) => {
          const { dotState, isDown, noteWords, stateWords } = await import(url);
          return devices.map((one) => [stateWords(one, 100), dotState(one, 100), isDown(one), noteWords(one, 100)]);
        }""",
        [
            chat.script_url("reef/words.js"),
            [fields | {"state": "ready", "fallback": True}, fields | {"state": "quarantined", "fallback": False}],
        ],
    )
    assert told[0][:3] == ["On the CPU", "loading", False]
    assert told[0][3].startswith("The CPU does its work. It hung. Next try at ")
    assert told[1][:3] == ["Quarantined", "failed", True]


SIDEBAR = """async (url) => {
  const { Sidebar } = await import(url);
  const listeners = {};
  const device = { state: "ready" };
  const store = { on: (topic, listener) => (listeners[topic] = listener), personas: [], sessions: [],
                  chats: { query: "", next: null }, runs: { held: "" },
                  status: { pools: [{ name: "chat", devices: [device] }] } };
  new Sidebar(store, {});
  return ["", "No device answers right now; the reply goes on as soon as one is back.", ""].map((held) => {
    store.runs.held = held;
    listeners.status();
    return document.getElementById("foot-status-text").textContent;
  });
}"""


def test_page_sidebar_says_what_the_reply_says(chat: ChatPage) -> None:
    """While a reply waits for a device that fell silent, the last status does not call it ready."""
    told = chat.page.evaluate(SIDEBAR, chat.script_url("views/sidebar.js"))
    assert told == ["Ready", "No device answers right now", "Ready"]


KEPT = """async (url) => {
  const { draft, forgetUnsent, keepUnsent, unsent } = await import(url);
  const message = (n) => ({ idempotencyKey: `k${n}`, text: `text ${n}`, sessionId: `s${n}` });
  const all = Array.from({ length: 22 }, (_, n) => n).map((n) => keepUnsent(message(n)));
  keepUnsent({ ...message(5), sessionId: "again" });
  forgetUnsent("k21");
  return [all.every(Boolean), unsent().map((one) => one.text), draft("s0"), draft("s1"), draft("s2")];
}"""


def test_page_unsent_messages_are_bounded_and_none_is_lost(chat: ChatPage) -> None:
    """Twenty are kept, the oldest beyond become drafts of their chats; what was sent is forgotten."""
    kept, texts, *drafts = chat.page.evaluate(KEPT, chat.script_url("keep.js"))
    assert kept
    assert len(texts) == 19
    assert texts[0] == "text 2"
    assert texts[-1] == "text 5"
    assert drafts == ["text 0", "text 1", ""]
