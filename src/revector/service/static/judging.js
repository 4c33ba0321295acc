// The page on which a person judges: one query at a time, each score saved before the next one is shown as saved.

import { el } from "./dom.js";

const $ = (id) => document.getElementById(id);
const key = location.hash.slice(1) || sessionStorage.getItem("key");
if (key) sessionStorage.setItem("key", key);
history.replaceState(null, "", location.pathname); // the key is not left in what is copied or shown

const AGAIN_MS = 2000;
const state = { judge: "", batch: null, at: 0, query: null, waiting: 0 };
const undos = []; // {judge, query, changes}: what takes the last savings back
let saving = Promise.resolve(); // one after the other: each says what it saw before

const say = (text) => { $("state").textContent = text; };
const many = (count, one, more = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;

function trouble(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function ask(path, body = null) {
  const options = { headers: { Authorization: `Bearer ${key}` } };
  if (body) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(`data/${path}`, options);
  const told = await answer.json();
  if (answer.ok) return told;
  throw Object.assign(new Error(told.detail), { status: answer.status });
}

const read = (path, values) => ask(`${path}?${new URLSearchParams(values)}`);

function show(title, ...children) {
  document.title = title;
  $("view").replaceChildren(...children.filter((child) => child != null));
}

// The beginning -------------------------------------------------------------------------------------------------------

async function begin() {
  let notes = [];
  try {
    ({ notes } = await read("batch", { judge: "-" }));
  } catch (error) {
    trouble(error.message);
    return;
  }
  const name = el("input", { type: "text", id: "name", required: true, maxlength: 60, autocomplete: "name", value: localStorage.getItem("judge") });
  show("Judge queries", el("h1", {}, "Judge queries"),
    el("p", {}, "For each query you see documents that were found for it. Say of each whether it answers the query. "
      + "Nothing says what found it, and their order means nothing."),
    ...notes.map((note) => el("p", { class: "note" }, note)),
    el("form", { class: "actions", onsubmit: (event) => { event.preventDefault(); enter(name.value.trim()); } },
      el("label", { for: "name" }, "Your name"), name, el("button", { class: "main" }, "Begin")));
  name.focus();
}

async function enter(judge) {
  if (!judge) return;
  try {
    state.batch = await read("batch", { judge });
  } catch (error) {
    trouble(error.message);
    return;
  }
  trouble("");
  state.judge = judge;
  undos.length = 0;
  if (judge !== state.batch.agreed) localStorage.setItem("judge", judge);
  const open = state.batch.queries.findIndex((query) => query.judged < query.documents);
  await (open < 0 ? summary() : go(open));
}

// One query -----------------------------------------------------------------------------------------------------------

async function go(at, focus = null) {
  const { queries } = state.batch;
  if (at >= queries.length) return summary();
  state.at = Math.max(0, at);
  state.query = await read("query", { query: queries[state.at].id, judge: state.judge });
  const { text, documents } = state.query;
  const who = state.judge === state.batch.agreed ? "What you agree on" : state.judge;
  $("place").textContent = `${who}: query ${state.at + 1} of ${queries.length}`;
  show(`${state.at + 1}/${queries.length} ${text}`, el("p", { class: "soft" }, "Which of these documents answer the query?"),
    el("h1", { dir: "auto", id: "query" }, text), el("ol", { "aria-labelledby": "query" }, ...documents.map(item)),
    el("div", { class: "actions" },
      el("button", { type: "button", disabled: !state.at, onclick: () => go(state.at - 1) }, "Back"),
      el("button", { type: "button", class: "main", onclick: next }, "Next"),
      el("button", { type: "button", onclick: undo }, "Undo"),
      el("button", { type: "button", onclick: rest }, "None of the rest is relevant")));
  trim();
  told();
  focusOn(focus ?? Math.max(0, documents.findIndex((one) => one.score == null)));
  return null;
}

function item(one, n) {
  const others = one.others && Object.entries(one.others).map(([judge, score]) => `${judge}: ${score}`).join(", ");
  const text = el("p", { class: "text cut", dir: "auto", id: `text-${n}` }, one.text);
  return el("li", {}, el("fieldset", { class: one.score == null ? null : "scored", "data-n": n, "aria-describedby": `text-${n}` },
    el("legend", {}, `Document ${n + 1} of ${state.query.documents.length}: `, el("bdi", {}, one.id)), text,
    el("button", { type: "button", class: "more", "aria-expanded": "false", "aria-controls": `text-${n}`, onclick: () => expand(n), hidden: true }, `Show all ${one.text.length.toLocaleString("en")} characters`),
    others ? el("p", { class: "soft" }, `Judged ${others}. What do you agree on?`) : null,
    el("div", { class: "scores" }, ...state.batch.scores.map((meaning, score) => el("label", {},
      el("input", { type: "radio", name: `score-${n}`, value: score, checked: one.score === score, onchange: () => put([[n, score]]) }),
      `${score} ${meaning}`)))));
}

const field = (n) => $("view").querySelector(`fieldset[data-n="${n}"]`);

// A text that fits needs no button.
function trim() {
  for (const text of $("view").querySelectorAll(".text")) {
    const fits = text.scrollHeight <= text.clientHeight + 1;
    if (fits) text.classList.remove("cut");
    text.nextSibling.hidden = fits;
  }
}

function expand(n) {
  const [text, button] = [$(`text-${n}`), field(n).querySelector(".more")];
  if (button.hidden) return;
  const cut = text.classList.toggle("cut");
  button.setAttribute("aria-expanded", String(!cut));
  button.textContent = cut ? `Show all ${state.query.documents[n].text.length.toLocaleString("en")} characters` : "Show less";
}

function focusOn(n) {
  const target = field(n)?.querySelector("input:checked") ?? field(n)?.querySelector("input");
  target?.focus({ preventScroll: true });
  field(n)?.scrollIntoView({ block: "nearest" });
}

const current = () => Number(document.activeElement?.closest("fieldset[data-n]")?.dataset.n ?? -1);
const firstOpen = () => state.query.documents.findIndex((one) => one.score == null);

function told() {
  if (!state.query) return;
  const { documents } = state.query;
  const done = documents.filter((one) => one.score != null).length;
  state.batch.queries[state.at].judged = done;
  if (!state.waiting) say(`${done} of ${many(documents.length, "document")} judged, all saved`);
}

// Saving --------------------------------------------------------------------------------------------------------------

// `wanted`: pairs of a document's place and its score, null to take it back. Shown at once, and kept in the order given.
function put(wanted, keep = true) {
  const { judge, query, at } = state;
  const changes = wanted.filter(([n, score]) => query.documents[n].score !== score).map(([n, score]) => ({ document: query.documents[n].id, score, was: query.documents[n].score }));
  if (!changes.length) return saving;
  for (const [n, score] of wanted) mark(n, score);
  if (keep) undos.push({ judge, at, query: query.id, changes: changes.map(({ document, score, was }) => ({ document, score: was, was: score })) });
  state.waiting += 1;
  say("Saving …");
  saving = saving.then(() => send({ judge, query: query.id, changes }));
  return saving;
}

function mark(n, score) {
  state.query.documents[n].score = score;
  field(n).classList.toggle("scored", score != null);
  for (const input of field(n).querySelectorAll("input")) input.checked = Number(input.value) === score;
}

async function send(body) {
  for (;;) {
    try {
      await ask("judgements", body);
      break;
    } catch (error) {
      if (error.status) {
        await refused(error);
        return;
      }
      say(`${many(state.waiting, "judgement")} not saved yet`);
      trouble("The server does not answer. Leave this page open: it tries again until it does.");
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }
  state.waiting -= 1;
  trouble("");
  told();
}

// What was shown is not what is kept: show what is.
async function refused(error) {
  state.waiting -= 1;
  undos.length = 0;
  say("Not saved");
  trouble(error.message);
  if (error.status !== 401) await go(state.at, Math.max(0, current()));
}

async function undo() {
  const last = undos.pop();
  if (!last) {
    say("Nothing to undo");
    return;
  }
  await saving;
  if (state.query?.id !== last.query) await go(last.at);
  const places = last.changes.map(({ document, score }) => [state.query.documents.findIndex((one) => one.id === document), score]);
  await put(places, false);
  focusOn(places[0][0]);
}

function rest() {
  put(state.query.documents.flatMap((one, n) => (one.score == null ? [[n, 0]] : [])));
  $("view").querySelector("button.main").focus();
}

async function next() {
  if (firstOpen() >= 0) {
    focusOn(firstOpen());
    say(`${many(state.query.documents.filter((one) => one.score == null).length, "document")} of this query left to judge`);
    return;
  }
  await saving;
  if ($("problem").hidden) await go(state.at + 1);
}

// The end -------------------------------------------------------------------------------------------------------------

async function summary() {
  state.batch = await read("batch", { judge: state.judge });
  state.query = null;
  const { queries, progress, agreed } = state.batch;
  const open = queries.findIndex((query) => query.judged < query.documents);
  const { agreement } = progress;
  $("place").textContent = state.judge;
  say("All saved");
  const title = queries.length && open >= 0 ? "Some documents are not judged yet" : "Every document is judged";
  show(title, el("h1", { tabindex: "-1" }, title),
    el("table", {}, el("caption", { class: "soft" }, "Who judged how much"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "judge"), el("th", { scope: "col" }, "documents judged"))),
      el("tbody", {}, ...Object.entries(progress.judges).map(([judge, count]) => el("tr", {}, el("td", {}, el("bdi", {}, judge)), el("td", {}, `${count} of ${progress.pairs}`))))),
    agreement.pairs ? el("p", {}, `${agreement.judges} judges say the same of ${agreement.alike} of ${many(agreement.pairs, "document")} that two or more of them judged`
      + (agreement.alpha == null ? "." : `: Krippendorff's alpha ${agreement.alpha.toFixed(2)} (1: always, 0: as often as by chance).`)) : null,
    el("p", {}, `${progress.whole} of ${many(progress.queries, "query", "queries")} can be added to the labels: those of which every document has a score that stands.`
      + (progress.disputed ? ` The judges differ on ${many(progress.disputed, "document")}; more than half of them, or what they agree on, decides.` : "")),
    el("div", { class: "actions" },
      el("button", { type: "button", class: "main", id: "finish", disabled: !progress.whole, onclick: finish }, "Add them and judge the gate"),
      progress.disputed && state.judge !== agreed ? el("button", { type: "button", onclick: () => enter(agreed) }, "Settle what you differ in") : null,
      open >= 0 ? el("button", { type: "button", onclick: () => go(open) }, "Go on judging") : null,
      el("button", { type: "button", onclick: () => go(0) }, "Look through from the first"),
      el("button", { type: "button", onclick: begin }, "Another judge")),
    el("div", { id: "verdict", "aria-live": "polite" }));
  $("view").querySelector("h1").focus();
}

async function finish() {
  $("finish").disabled = true;
  $("verdict").replaceChildren(el("p", {}, "Adding, and asking old and new the queries …"));
  try {
    $("verdict").replaceChildren(...result(await ask("finish", {})));
  } catch (error) {
    $("verdict").replaceChildren(el("p", { class: "note" }, error.message ?? "The server does not answer."));
  }
  $("finish").disabled = false;
}

function result({ added, verdict, findings, still_needed: needed, told: sentence }) {
  const head = el("p", {}, `Added ${many(added.added, "judgement")} of ${many(added.new_queries, "new query", "new queries")}; ${added.known} were known.`);
  if (!verdict) return [head, el("p", { class: "note" }, sentence)];
  return [head, el("div", { class: `verdict ${verdict}` }, el("p", {}, el("strong", {}, verdict.toUpperCase())),
    needed ? el("p", {}, `About ${many(needed, "more query", "more queries")} that old and new answer differently ${needed === 1 ? "is" : "are"} expected to decide it.`) : null,
    el("ul", {}, ...findings.map((one) => el("li", { class: one.value }, el("span", { class: "finding" }, one.value.toUpperCase()), ` ${one.sentence}`)))),
  el("p", { class: "soft" }, sentence)];
}

// Keys ----------------------------------------------------------------------------------------------------------------

const KEYS = {
  j: () => focusOn(Math.min(current() + 1, state.query.documents.length - 1)),
  k: () => focusOn(Math.max(current() - 1, 0)),
  e: () => expand(Math.max(current(), 0)),
  n: rest,
  u: undo,
  b: () => go(state.at - 1),
};

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || $("keys").open || event.target.matches("input[type=text]")) return;
  const { key: pressedKey } = event;
  if (pressedKey === "Enter" && state.query && !event.target.matches("button, a")) next();
  else if (!$("single").checked) return;
  else if (pressedKey === "?") $("keys").showModal();
  else if (!state.query) return;
  else if (pressedKey in state.batch.scores) score(Number(pressedKey));
  else if (KEYS[pressedKey.toLowerCase()]) KEYS[pressedKey.toLowerCase()]();
  else return;
  event.preventDefault();
}

function score(value) {
  const n = current();
  if (n < 0) return;
  put([[n, value]]);
  const after = state.query.documents.findIndex((one, place) => place > n && one.score == null);
  if (after >= 0) focusOn(after);
  else if (firstOpen() >= 0) focusOn(firstOpen());
}

$("help").addEventListener("click", () => $("keys").showModal());
$("single").checked = localStorage.getItem("single") !== "off";
$("single").addEventListener("change", () => localStorage.setItem("single", $("single").checked ? "on" : "off"));
document.addEventListener("keydown", pressed);
addEventListener("beforeunload", (event) => { if (state.waiting) event.preventDefault(); });
addEventListener("unhandledrejection", (event) => trouble(event.reason.status ? event.reason.message : "The server does not answer. Try again."));
begin();
