// What a person does: each move has a reason and a confirmation, and is done by Airflow under the person's own name.

import { answer, follow, questions, runLink, trigger } from "./airflow.js";
import { el, pause, spaced } from "./dom.js";
import { isPaused, pausedNote } from "./runs.js";

const AGAIN_MS = 2000;
const PATIENCE_MS = 120000;
const NOTE_MS = 60000;

const opened = new Map(); // collection -> the move whose confirmation is open
const reasons = new Map(); // collection -> the reason being typed
const notes = new Map(); // collection -> {kind, text, at}: what came of the last move
const busy = new Set(); // collections with a move under way

// `read` returns the newest status, `waits` the questions that wait, `refresh` fetches both, `draw` shows them.
let page = null;
export const begin = (hooks) => { page = hooks; };

// `final`: nothing brings it back, so it stands apart, in small, and its form wants the revision typed.
const MOVES = {
  start: { words: "Start the migration", style: "main", right: "start", confirm: (found) => `Migrate to ${found.next?.revision}, and ask before the swap` },
  approve: { words: "Approve", style: "main", asks: "approval", right: "answer", confirm: (found) => `Swap to ${found.migration.revision}` },
  reject: { words: "Reject", asks: "approval", right: "answer", confirm: () => "Do not swap; keep the shadow index" },
  rollback: { words: "Roll back", style: "main", asks: "window", right: "move", confirm: () => "Go back to the old index" },
  swap: { words: "Go forward again", style: "main", right: "move", confirm: (found) => `Go forward to ${found.migration.revision}` },
  retire: { words: "Retire now", style: "quiet", final: "Is the way back not wanted any more?", asks: "window", right: "move",
    confirm: (found) => `Drop the ${rolledBack(found) ? "new" : "old"} index for good` },
  override: { words: "Override the gate", style: "quiet", right: "move", confirm: () => "Let it swap although the gate did not pass" },
  abort: { words: "Abort", style: "quiet", final: "Is this revision not wanted any more?", right: "move", confirm: (found) => `Give up ${found.migration.revision} and drop its index` },
};

export const rolledBack = (found) => found.migration?.phase === "rolled_back";

// The DAG that a move is done by: that of the run which waits for the answer, or the one that the page triggers.
function doer(found, move) {
  if (move === "start") return page.read().migrating_dag;
  const waits = rolledBack(found) ? null : page.waits().get(found.questions[MOVES[move].asks]);
  return waits?.task_instance.dag_id ?? page.read().moving_dag;
}

// The buttons of some moves, or, once one was pressed, its form.
export function buttons(found, names) {
  const move = opened.get(found.name);
  if (move && names.includes(move)) return confirmation(found, move);
  const { may, user } = page.read();
  const mayAll = names.every((name) => may[MOVES[name].right]);
  const paused = [...new Set(names.map((name) => doer(found, name)))].filter((dag) => isPaused(dag, page.read()));
  const shown = names.map((name) => el("button", {
    type: "button", class: MOVES[name].style, "data-key": `${found.name} ${name}`,
    disabled: !may[MOVES[name].right] || busy.has(found.name) || paused.includes(doer(found, name)),
    title: may[MOVES[name].right] ? null : denied(user, MOVES[name].right), onclick: () => choose(found.name, name),
  }, MOVES[name].words));
  return el("div", { class: "actions", "data-key": `${found.name} ${names[0]} buttons` },
    mayAll ? null : el("span", { class: "soft" }, "You may look, not act."),
    ...paused.map((dag) => pausedNote(dag, page.read(), page.refresh)), ...shown);
}

// What nobody should press by mistake, below and in small.
export function last(found, names) {
  const why = names.map((name) => MOVES[name].final).filter(Boolean).join(" ");
  return el("div", { class: "last", "data-key": `${found.name} last` }, el("span", { class: "soft" }, why), buttons(found, names));
}

const denied = (user, right) => `${user} may look, not act: that needs the right to ${
  right === "answer" ? "answer questions of the DAG revector_migrate"
    : `trigger the DAG ${right === "start" ? page.read().migrating_dag : page.read().moving_dag}`}`;

function confirmation(found, move) {
  const { words, style, confirm, final } = MOVES[move];
  const { revision } = found.migration ?? {};
  const typed = final ? el("input", { placeholder: `type ${revision} to confirm`, "aria-label": "revision", required: true, pattern: revision,
    title: `This cannot be undone: type ${revision}`, autocomplete: "off" }) : null;
  return el("form", {
    class: "actions", "data-key": `${found.name} ${move} form`, "aria-label": words,
    onsubmit: (event) => { event.preventDefault(); act(found.name, move); },
    onkeydown: (event) => { if (event.key === "Escape") choose(found.name, null); },
  }, el("input", {
    placeholder: move === "start" ? "why? (kept with the run)" : "why? (for the history)", "aria-label": "reason", required: true, maxlength: 500, pattern: ".*\\S.*",
    title: "a reason, for the history", oninput: (event) => reasons.set(found.name, event.target.value),
  }), typed, el("button", { class: style === "main" ? "main" : "danger" }, confirm(found)),
  el("button", { type: "button", onclick: () => choose(found.name, null) }, "Cancel"));
}

function choose(name, move) {
  const before = opened.get(name);
  if (move) opened.set(name, move);
  else opened.delete(name);
  reasons.delete(name);
  page.draw();
  // The focus goes where one types, and back to the button that one came from.
  const card = [...document.querySelectorAll("article")].find((one) => one.dataset.key === name);
  const target = move ? "form.actions input" : `[data-key="${CSS.escape(`${name} ${before}`)}"]`;
  card?.querySelector(target)?.focus();
}

export function note(found) {
  const last = notes.get(found.name);
  if (!last || Date.now() - last.at > NOTE_MS && !busy.has(found.name)) return null;
  return el("p", { class: `note ${last.kind}`, role: "status", "data-key": "note" }, last.text, last.run ? " " : null, last.run ? runLink(last.run) : null);
}

function say(name, kind, text, run = null) {
  notes.set(name, { kind, text, run, at: Date.now() });
  page.draw();
}

async function act(name, move) {
  const found = page.collection(name);
  const reason = (reasons.get(name) ?? "").trim();
  opened.delete(name);
  reasons.delete(name);
  busy.add(name);
  say(name, "soft", "Asked …");
  let run = null;
  const told = (started) => (state) => { run = started; say(name, "soft", `${MOVES[move].words}: the run is ${state} …`, run); };
  try {
    if (move === "start") {
      run = await trigger(page.read().migrating_dag, { collection: name, revision: found.next.revision, approval: true }, reason);
      say(name, "good", `The migration to ${found.next.revision} is begun. Before the swap it asks here for an approval.`, run);
      return;
    }
    if (!(await answerRun(found, move, reason, told))) await triggerRun(found, move, reason, told);
    say(name, "good", `${MOVES[move].words}: done.`, run);
  } catch (error) {
    say(name, "bad", error.message, run);
  } finally {
    busy.delete(name);
    await page.refresh();
  }
}

async function triggerRun(found, move, reason, told) {
  const { revision, phase } = found.migration;
  const conf = { collection: found.name, action: move, revision, phase, reason };
  const run = await trigger(page.read().moving_dag, conf, reason);
  await follow(run, told(run));
  // A run that waits for an approval would wait for ever: there is nothing left to approve.
  const waits = move === "abort" && (await questions()).get(found.questions.approval);
  if (waits) await answer(waits, page.read().answers.reject, reason);
}

// Answer the waiting run; it does the rest. False if none waits. Airflow 3.3 loses an answer that comes within a moment
// of the question and asks again (a new try of the task), so it is repeated until the collection has moved. A run whose
// migration was rolled back elsewhere has nothing left to do: it is not asked.
async function answerRun(found, move, reason, told) {
  const { asks } = MOVES[move];
  if (!asks || rolledBack(found)) return false;
  let run = null;
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await pause(AGAIN_MS)) {
    const question = (await questions()).get(found.questions[asks]);
    if (!question && !run) {
      if (asks === "approval") throw new Error("Nobody asks any more: look again.");
      return false;
    }
    if (question) {
      run = await answer(question, page.read().answers[move], reason);
      told(run)("answered");
    } else if (move === "reject") return true;
    await page.refresh();
    if (page.collection(found.name)?.epoch !== found.epoch) return true;
  }
  throw new Error(`The run was answered, and revision ${found.migration.revision} is still ${spaced(found.migration.phase)}: look at the run's tasks.`);
}
