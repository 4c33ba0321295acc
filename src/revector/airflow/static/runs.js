// What Airflow does and does not do: runs under way, the revision that waits for one, and DAGs that are paused.

import { airflowLink, runLink, unpause } from "./airflow.js";
import { el, span } from "./dom.js";
import { buttons } from "./moves.js";

const isMigration = (run) => run.revision != null && run.action == null;
const concerns = (run, found) => run.collection == null || run.collection === found.name;
const meant = (run, found) => (run.revision === "head" ? found.next?.revision ?? found.migration?.revision ?? "head" : run.revision);

export const underWay = (found, { airflow }) => airflow.runs.filter((run) => concerns(run, found));

// A run whose migration no slot shows yet: it plans, or has not begun.
export const beginning = (found, status) => underWay(found, status)
  .find((run) => isMigration(run) && meant(run, found) !== found.migration?.revision);

export const isPaused = (dag, { airflow }) => airflow.dags.some((one) => one.dag === dag && one.paused);

// "what is asked of it would wait for ever", with the button that ends it.
export function pausedNote(dag, { may }, refresh) {
  const button = el("button", { type: "button", class: "small", disabled: !may.unpause,
    title: may.unpause ? null : "you may not unpause it", onclick: async () => { await unpause(dag); await refresh(); } }, "Unpause");
  return el("span", { class: "warn", "data-key": `paused ${dag}` }, "The DAG ", airflowLink(dag), " is paused in Airflow: what is asked of it would wait for ever. ", button);
}

export function pausedDags(status, refresh) {
  const paused = status.airflow.dags.filter((one) => one.paused);
  if (!paused.length) return el("aside", { id: "paused", hidden: true });
  const rows = paused.map(({ dag, does }) => el("li", { "data-key": dag }, airflowLink(dag), does ? `: ${does} ` : " ",
    el("button", { type: "button", class: "small", disabled: !status.may.unpause, "aria-label": `Unpause ${dag}`,
      onclick: async () => { await unpause(dag); await refresh(); } }, "Unpause")));
  return el("aside", { id: "paused" }, el("h3", {}, paused.length === 1 ? "A DAG is paused in Airflow: until someone unpauses it, nobody does this"
    : `${paused.length} DAGs are paused in Airflow: until someone unpauses them, nobody does this`), el("ul", {}, ...rows));
}

// The steps of a run whose migration is not open yet: it is planning, which takes minutes on a large corpus.
export function begun(found, status) {
  const run = beginning(found, status);
  if (!run) return null;
  const at = status.steps.findIndex((step) => run.tasks.includes(step.name));
  const state = (i) => (i < at ? "done" : i === at ? "current" : "waiting");
  const steps = status.steps.map(({ name, does }, i) => el("li", { class: state(i), title: `this step ${does}`, "aria-current": i === at ? "step" : null }, name));
  const doing = run.state === "queued" ? "waits for a place in Airflow" : at < 0 ? "is about to begin" : status.steps[at].does;
  return el("section", { "data-key": "begun" }, el("h3", {}, `Migration to ${meant(run, found)}: under way, no index is made yet`),
    el("ol", { class: "steps" }, ...steps),
    el("p", { class: "note" }, at >= 0 ? `The step ${status.steps[at].name} ` : "The run ", `${doing}. `, who(run), " ", runLink(run, "Look at the run")),
    run.state === "queued" && isPaused(run.dag, status) ? el("p", { class: "note warn" }, `The DAG ${run.dag} is paused: this run waits until someone unpauses it.`) : null);
}

const since = (run) => (run.since ? span((Date.now() - Date.parse(run.since)) / 1000) : "a moment");
const who = (run) => `Begun ${since(run)} ago${run.by ? ` by ${run.by}` : ""}.`;

// A line for each other run: checks, retirements, moves, and the run behind an open migration.
export function otherRuns(found, status) {
  const first = beginning(found, status);
  const lines = underWay(found, status).filter((run) => run !== first).map((run) => el("li", { "data-key": run.run },
    airflowLink(run.dag), ` ${run.state === "queued" ? "is queued" : run.tasks.length ? `is at ${run.tasks.join(", ")}` : "runs"}. ${who(run)} `, runLink(run, "Look at the run")));
  return lines.length ? el("section", { "data-key": "runs" }, el("h3", {}, "Running in Airflow"), el("ul", {}, ...lines)) : null;
}

// The head of the migration files, where no slot holds it.
export function waiting(found, status) {
  if (!found.next || beginning(found, status)) return null;
  if (found.next.problem) return el("section", { "data-key": "next" }, el("p", { class: "problem note" }, `The migration files cannot be used: ${found.next.problem}`));
  const { revision, model, dim, message } = found.next;
  const blocked = found.migration ? " It can begin once the migration that is open is closed." : "";
  return el("section", { "data-key": "next" }, el("div", { class: "row" },
    el("div", {}, el("h3", {}, `Revision ${revision} waits in the migration files`),
      el("p", { class: "note" }, `${message}: ${model} (${dim}).${blocked} `, airflowLink(status.migrating_dag, "Airflow's form"))),
    found.migration ? null : buttons(found, ["start"])));
}
