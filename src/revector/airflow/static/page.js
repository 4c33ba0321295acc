// The page: reads the status every few seconds and draws it. As a tab it shows the collections of that DAG or run.

import { call, followTheme, questions, readDag, readRun } from "./airflow.js";
import { card } from "./collection.js";
import { Charts } from "./charts.js";
import { doing } from "./doing.js";
import { clock, el, morph, pause } from "./dom.js";
import { History } from "./history.js";
import { begin } from "./moves.js";
import { pausedDags } from "./runs.js";

const OPEN_MS = 2000; // while something moves or can be moved
const QUIET_MS = 10000;
const ASKING = new Set(["verified", "gated", "live"]); // phases in which a run may wait for a person
const OURS = "revector";

const root = document.getElementById("collections");
const state = document.getElementById("state");
const views = new Map(); // "history docs" and the like -> what draws there
let latest = null;
let waiting = new Map();
let readAt = 0;
let only = null; // a collection, in the tab of a run or of a DAG for one collection
let run = null; // an Airflow run, in its tab

function draw() {
  if (!latest) return;
  const shown = latest.collections.filter((found) => !only || found.name === only);
  const own = latest.may.history ? ["charts", "history"] : ["charts", "hidden"];
  const cards = shown.length ? shown.map((found) => card(found, latest, waiting, found.problem ? [] : own))
    : [el("p", { class: "soft" }, "No collection is configured: add one to revector.toml.")];
  morph(document.getElementById("doing"), doing(shown, latest, waiting));
  morph(document.getElementById("paused"), pausedDags(latest, refresh));
  morph(root, el("main", { id: "collections" }, ...cards));
  for (const found of shown) if (!found.problem) fill(found);
}

// What draws itself is made once, and told when there is something new.
function fill(found) {
  const make = { charts: () => new Charts(found.name, () => latest, refresh), history: () => new History(found.name, run) };
  for (const node of document.querySelectorAll("[data-own]:empty")) {
    const [kind, name] = node.dataset.key.split(" ");
    if (name !== found.name) continue;
    if (kind === "hidden") node.append(el("p", { class: "soft" }, "The history is shown to those who may read the audit log of the DAG revector_migrate."));
    else {
      if (!views.has(node.dataset.key)) views.set(node.dataset.key, { view: make[kind](), seen: found.newest_event });
      node.append(views.get(node.dataset.key).view.element);
    }
  }
  const history = views.get(`history ${found.name}`);
  if (history && history.seen !== found.newest_event) {
    history.seen = found.newest_event;
    history.view.moved();
  }
}

async function refresh() {
  try {
    const found = await call("data/status");
    const asks = found.collections.some((one) => ASKING.has(one.migration?.phase));
    waiting = asks ? await questions().catch(() => new Map()) : new Map();
    latest = found;
    readAt = performance.now();
    state.className = "";
    state.textContent = `signed in as ${latest.user}${latest.may.move || latest.may.answer ? "" : " (read only)"}; all times are UTC`;
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

// In a tab: which collection it is about. Tabs are on every DAG; those of others have nothing to show.
async function place() {
  const query = new URLSearchParams(location.search);
  const dag = query.get("dag");
  if (!dag) return true;
  const { tags, params, dag_display_name: name } = await readDag(dag);
  if (!tags.some((tag) => tag.name === OURS)) {
    state.textContent = `${name} is not a DAG of revector: there is nothing to show here.`;
    return false;
  }
  if (query.has("run")) {
    run = query.get("run");
    only = (await readRun(dag, run)).conf?.collection ?? params?.collection?.value ?? null;
  }
  return true;
}

async function begun() {
  followTheme();
  begin({ read: () => latest, waits: () => waiting, collection: (name) => latest.collections.find((one) => one.name === name), draw, refresh });
  try {
    if (!(await place())) return;
  } catch (error) {
    state.className = "lost";
    state.textContent = error.message;
    return;
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  setInterval(tick, 250);
  for (;;) {
    if (!document.hidden) await refresh();
    await pause(!latest || latest.airflow.runs.length || latest.collections.some((one) => one.migration) ? OPEN_MS : QUIET_MS);
  }
}

begun();
