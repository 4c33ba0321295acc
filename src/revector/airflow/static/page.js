// The page: reads the status every two seconds and draws it; acts by answering the waiting run's question.

const PERIOD_MS = 2000;
const PATIENCE_MS = 120000;
const API = "../../api/v2"; // relative, so that it works under any path prefix
const root = document.getElementById("collections");
const asked = new Map(); // collection -> "rollback" | "swap" | "retire": which confirmation is open
const reasons = new Map(); // collection -> the reason being typed
const notes = new Map(); // collection -> {text, kind}: what came of the last action
let latest = null;
let readAt = 0;

function theme() {
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  try {
    const host = window.parent !== window ? window.parent.document.documentElement.classList : null;
    if (host?.contains("dark")) dark = true;
    else if (host?.contains("light")) dark = false;
  } catch {
    // A page that embeds us from another origin keeps its theme to itself.
  }
  document.documentElement.classList.toggle("dark", dark);
}

function el(tag, attributes = {}, ...children) {
  const node = document.createElementNS(
    ["svg", "line", "circle", "text", "title"].includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const count = (value) => (value == null ? "–" : Number(value).toLocaleString("en"));
const ratio = (value) => (value == null ? "–" : Number(value).toFixed(4));

function span(seconds) {
  if (seconds == null) return "–";
  const s = Math.max(0, Math.round(seconds));
  const [d, h, m] = [Math.floor(s / 86400), Math.floor((s % 86400) / 3600), Math.floor((s % 3600) / 60)];
  if (d) return `${d} d ${h} h`;
  if (h) return `${h} h ${String(m).padStart(2, "0")} min`;
  return m ? `${m} min ${String(s % 60).padStart(2, "0")} s` : `${s} s`;
}

function clock(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  return [Math.floor(s / 3600), Math.floor((s % 3600) / 60), s % 60].map((n) => String(n).padStart(2, "0")).join(":");
}

const mib = (bytes) => `${(bytes / 2 ** 20).toLocaleString("en", { maximumFractionDigits: 1 })} MiB`;
const age = (iso) => (iso ? span((Date.now() - Date.parse(iso)) / 1000) : "–");

function table(heads, rows) {
  const cell = (tag) => (value, i) => el(tag, { class: heads[i].startsWith("#") ? "number" : null }, value instanceof Node ? value : String(value));
  return el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((head, i) => cell("th")(head.replace("#", ""), i)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell("td"))))));
}

function slots(found) {
  const rows = ["active", "standby", "building"].filter((role) => found.slots[role]).map((role) => {
    const slot = found.slots[role];
    const waiting = slot.waiting.live + slot.waiting.bulk;
    return [el("span", { class: `badge ${role}` }, role), el("span", { title: slot.message }, el("code", {}, slot.revision)),
      `${slot.model} (${slot.dim})`, slot.phase, count(waiting), waiting ? span(slot.lag_s) : "–", mib(slot.bytes),
      age(slot.live_at ?? slot.registered_at)];
  });
  if (!rows.length) return el("section", {}, el("p", { class: "soft" }, "Nothing is indexed yet: start the DAG revector_migrate, or run revector upgrade."));
  return el("section", { class: "scroll" },
    table(["slot", "revision", "model", "phase", "#writes waiting", "#oldest", "#size", "#age"], rows));
}

function migration(found) {
  const open = found.migration;
  if (!open) return null;
  const line = el("ol", { class: "steps" }, ...open.steps.map((step) => el("li", { class: step.state, title: `this step ${step.does}` }, step.name)));
  const title = el("h3", {}, `Migration to ${open.revision}${open.building ? "" : `: ${open.phase.replace("_", " ")}`}`);
  if (!open.building) return el("section", { "data-key": "steps" }, title, line);
  const { planned, published, chunks, documents_per_s: rate, eta_s: eta } = open.progress;
  const share = planned ? published / planned : 0;
  const dead = found.slots.building?.waiting.dead ?? 0;
  const fact = (name, value, bad) => el("span", { class: bad ? "bad" : null }, `${name} `, el("b", {}, value));
  return el("section", { "data-key": "progress" },
    title, line,
    el("progress", { max: 1, value: share, "aria-label": "documents embedded" }),
    el("div", { class: "facts" },
      fact("embedded", `${count(published)} of ${count(planned)} documents (${Math.floor(share * 100)} %)`),
      fact("chunks", count(chunks)),
      rate ? fact("rate", `${rate.toFixed(1)}/s`) : null,
      eta != null ? fact("left", span(eta)) : null,
      fact("shards done", `${open.shards.filter((shard) => shard.done).length} of ${open.shards.length}`),
      fact("dead letters", count(dead), dead > 0)));
}

function plot(marks) {
  const low = Math.max(0, Math.min(...marks.map(([, v]) => v.low)) - 0.02);
  const high = Math.min(1, Math.max(...marks.map(([, v]) => v.high)) + 0.02);
  const x = (value) => 40 + (250 * (value - low)) / (high - low || 1);
  const drawing = el("svg", { viewBox: "0 0 300 74", role: "img" }, el("title", {}, "recall with 95 % intervals"));
  marks.forEach(([name, value], i) => {
    const y = 14 + 22 * i;
    drawing.append(el("text", { x: 0, y: y + 4 }, name),
      el("line", { class: name, x1: x(value.low), x2: x(value.high), y1: y, y2: y, "stroke-width": 2 }),
      el("circle", { class: name, cx: x(value.mean), cy: y, r: 4.5 }));
  });
  drawing.append(el("line", { class: "axis", x1: 40, x2: 290, y1: 56, y2: 56 }),
    el("text", { x: 40, y: 71 }, low.toFixed(2)), el("text", { x: 290, y: 71, "text-anchor": "end" }, high.toFixed(2)));
  return drawing;
}

function gate(found) {
  const result = found.migration?.gate;
  if (!result?.new) return null;
  const sides = ["old", "new"].filter((side) => result[side]);
  const row = (name, value) => [name, ratio(value.mean), `${ratio(value.low)} to ${ratio(value.high)}`];
  const rows = sides.map((side) => row(`${side}: revision ${result[side].revision}`, result[side].recall));
  if (result.difference) rows.push(row("difference", result.difference));
  const verdict = result.passed ? "Passed." : `Failed: ${result.reasons.join("; ")}.`;
  return el("section", { "data-key": "gate" },
    el("h3", {}, `Gate: recall@${result.k} on ${count(result.queries)} labelled queries`),
    el("div", { class: "gate" }, table(["", "#mean", "#95 % interval"], rows), plot(sides.map((side) => [side, result[side].recall]))),
    el("p", { class: `note ${result.passed ? "good" : "bad"}` }, `${verdict} Measured ${age(result.at)} ago on ${result.labels}.`));
}

function rollbackWindow(found) {
  if (!found.rollback) return null;
  const back = rolledBack(found);
  const left = el("span", { class: "clock", "data-left": found.rollback.seconds_left }, clock(found.rollback.seconds_left));
  return el("section", { "data-key": "window" },
    el("h3", {}, "Rollback window"),
    el("div", { class: "window" }, left,
      el("span", { class: "soft" }, back
        ? `Rolled back. Revision ${found.migration.revision} still receives every write: going forward again loses nothing.`
        : "The old index still receives every write: going back loses nothing."),
      el("div", { class: "actions" }, ...actions(found))),
    note(found));
}

const rolledBack = (found) => found.migration?.phase === "rolled_back";

function actions(found) {
  const { name } = found;
  const choose = (action) => { action ? asked.set(name, action) : asked.delete(name); draw(); };
  const button = (action, kind, words, onclick) => el("button", {
    class: kind, onclick, "data-key": `${name} ${asked.get(name)} ${action}`, disabled: !latest.may_act,
    title: latest.may_act ? null : `${latest.user} may look, not act: that needs the right to edit the DAG`,
  }, words);
  const move = rolledBack(found) ? "swap" : "rollback";
  const action = asked.get(name);
  if (!action || !latest.may_act) {
    return [button(move, "main", move === "swap" ? "Go forward again" : "Roll back", () => choose(move)),
      button("retire", "danger", "Retire now", () => choose("retire"))];
  }
  const words = {
    rollback: "Go back to the old index",
    swap: `Go forward to ${found.migration?.revision}`,
    retire: `Drop the ${rolledBack(found) ? "new" : "old"} index for good`,
  }[action];
  return [
    el("input", { placeholder: "why? (for the history)", "aria-label": "reason", maxlength: 500, "data-key": `${name} reason`,
      oninput: (event) => reasons.set(name, event.target.value) }),
    button("yes", action === "retire" ? "danger" : "main", words, () => act(name, action)),
    button("no", null, "Cancel", () => choose(null))];
}

function note(found) {
  const last = notes.get(found.name);
  return last ? el("p", { class: `note ${last.kind}`, role: "status" }, last.text) : null;
}

async function call(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { "Content-Type": "application/json", Accept: "application/json" } });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(typeof body.detail === "string" ? body.detail : `the server answered ${answer.status}`);
  return body;
}

async function act(name, action) {
  const found = collectionOf(name);
  const reason = (reasons.get(name) ?? "").trim();
  asked.delete(name);
  say(name, "soft", "Asked …");
  try {
    const run = rolledBack(found) ? null : await answerRun(found, latest.options[action], reason);
    if (!run) {
      const body = { collection: name, revision: found.migration.revision, phase: found.migration.phase, action, ...(reason ? { reason } : {}) };
      const outcome = await call("data/act", { method: "POST", body: JSON.stringify(body) });
      say(name, "good", `Done: revision ${outcome.revision} is ${outcome.phase.replace("_", " ")}.`);
    }
    reasons.delete(name);
  } catch (error) {
    say(name, "bad", error.message);
  }
  setTimeout(() => { notes.delete(name); draw(); }, 20000);
  await refresh();
}

const collectionOf = (name) => latest.collections.find((one) => one.name === name);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function say(name, kind, text) {
  notes.set(name, { kind, text });
  draw();
}

// Answer the waiting run; it does the rest. Returns its id, or null if none waits. Airflow checks the right to answer
// and writes it to its audit log. Airflow 3.3 loses an answer that comes within a moment of the question and asks again
// (a new try of the task), so the answer is repeated until the collection has moved.
async function answerRun(found, option, reason) {
  const body = JSON.stringify({ chosen_options: [option], params_input: { reason: reason || null } });
  let run = null;
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await pause(PERIOD_MS)) {
    const waiting = await call(`${API}/dags/~/dagRuns/~/hitlDetails?response_received=false&limit=100`);
    const question = waiting.hitl_details.find((one) => one.subject === found.question);
    if (!question && !run) return null;
    if (question) {
      const { dag_id, dag_run_id, task_id, map_index } = question.task_instance;
      await call(`${API}/dags/${encodeURIComponent(dag_id)}/dagRuns/${encodeURIComponent(dag_run_id)}/taskInstances/${task_id}/${map_index}/hitlDetails`,
        { method: "PATCH", body });
      run = dag_run_id;
      say(found.name, "good", `Answered in run ${run}; it does the rest within seconds.`);
    }
    await refresh();
    if (collectionOf(found.name)?.epoch !== found.epoch) return run;
  }
  throw new Error(`Run ${run} was answered, and has not acted yet: look at its tasks.`);
}

// One line of a detail: nested figures and whole hashes are in the tooltip, but for the recall that people look for.
function brief([key, value]) {
  if (value?.recall?.mean != null) return `${key} recall ${ratio(value.recall.mean)}`;
  if (typeof value === "number") return `${key} ${Number(value.toPrecision(6))}`;
  return typeof value === "object" ? "" : `${key} ${String(value).replace(/\b([0-9a-f]{12})[0-9a-f]{52}\b/g, "$1…")}`;
}

function history(found) {
  const rows = found.events.map((event) => [
    el("span", { class: "when", title: event.at }, new Date(event.at).toLocaleString()), event.actor, event.kind, event.gen ?? "–",
    el("code", { title: JSON.stringify(event.detail, null, 1) }, Object.entries(event.detail ?? {}).map(brief).filter(Boolean).join(", "))]);
  if (!rows.length) return null;
  return el("details", { open: opened.get(found.name) ?? true, ontoggle: (event) => opened.set(found.name, event.target.open) },
    el("summary", {}, `History (${rows.length})`),
    el("div", { class: "scroll", "data-key": `history ${found.name}` }, table(["when", "who", "what", "#generation", "detail"], rows)));
}
const opened = new Map();

function card(found) {
  const head = el("div", { class: "head" }, el("h2", {}, found.name));
  if (found.problem) return el("article", { "data-key": `problem ${found.name}` }, head, el("p", { class: "problem" }, found.problem));
  const active = found.slots.active;
  if (active) head.append(el("span", { class: "soft" }, `${count(found.documents)} documents, answered from revision ${active.revision} (${active.model})`));
  return el("article", { "data-key": found.name }, ...[head, slots(found), migration(found), rollbackWindow(found), found.rollback ? null : note(found),
    gate(found), history(found)].filter(Boolean));
}

// Bring what is shown to what should be: a button under the pointer, the focus and the scrolling stay as they are.
function morph(shown, wanted) {
  if (shown.nodeName !== wanted.nodeName || shown.dataset?.key !== wanted.dataset?.key) {
    shown.replaceWith(wanted);
    return;
  }
  if (shown.nodeType === Node.TEXT_NODE) {
    if (shown.data !== wanted.data) shown.data = wanted.data;
    return;
  }
  for (const { name } of [...shown.attributes]) if (!wanted.hasAttribute(name)) shown.removeAttribute(name);
  for (const { name, value } of wanted.attributes) if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  const [now, then] = [[...shown.childNodes], [...wanted.childNodes]];
  then.forEach((child, i) => (i < now.length ? morph(now[i], child) : shown.append(child)));
  now.slice(then.length).forEach((child) => child.remove());
}

function draw() {
  if (!latest) return;
  const cards = latest.collections.length ? latest.collections.map(card)
    : [el("p", { class: "soft" }, "No collection is configured: add one to revector.toml.")];
  morph(root, el("main", { id: "collections" }, ...cards));
}

async function refresh() {
  const state = document.getElementById("state");
  try {
    latest = await call("data/status");
    readAt = performance.now();
    state.className = "";
    state.textContent = `signed in as ${latest.user}${latest.may_act ? "" : " (read only)"}`;
    draw();
  } catch (error) {
    state.className = "lost";
    state.textContent = `not up to date: ${error.message}`;
  }
}

function tick() {
  for (const node of document.querySelectorAll("[data-left]")) {
    node.textContent = clock(node.dataset.left - (performance.now() - readAt) / 1000);
  }
}

async function loop() {
  if (!document.hidden) await refresh();
  setTimeout(loop, PERIOD_MS);
}

theme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
try {
  new MutationObserver(theme).observe(window.parent.document.documentElement, { attributes: true, attributeFilter: ["class"] });
} catch {
  // Embedded from another origin: the system's theme has to do.
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
setInterval(tick, 250);
loop();
