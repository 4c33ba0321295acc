// The first sentence of the page: whether something needs doing, and what. For someone who is woken at night.

import { count, el, span, utc } from "./dom.js";
import { rolledBack } from "./moves.js";
import { isPaused, underWay } from "./runs.js";

const LATE_S = 60; // a worker that runs is never so far behind for long

// What a collection needs, most urgent first: [how bad, what]. Words in backquotes are commands.
function needs(found, status, waits) {
  if (found.problem) return [["bad", found.problem]];
  const { active, building } = found.slots;
  const open = found.migration;
  const said = [];
  const say = (level, words) => said.push([level, words]);
  if (active?.encoder_fault) say("bad", `the encoder of what is served cannot be used: ${active.encoder_fault}`);
  const adopted = found.adoption;
  if (adopted?.faults.length) say("bad", `not every write of ${adopted.table} is followed. ${adopted.advice}`);
  else if (adopted?.view_faults?.length || adopted?.compared?.differing.length) say("bad", `${adopted.table} and its documents differ. ${adopted.advice ?? "Look below"}`);
  if (active?.waiting.live && active.lag_s > LATE_S) say("bad", `changes wait for ${span(active.lag_s)}: is \`revector worker\` running?`);
  const refused = open?.gate && !open.gate.passed && !open.gate.overridden;
  if (open?.building && refused) say("warn", `the gate did not let revision ${open.revision} pass, and nothing was switched: ${open.gate.verdict === "inconclusive" ? "label more, abort, or override the gate" : "abort, or override the gate"}`);
  if (building?.encoder_fault) say("warn", `the encoder of revision ${building.revision} cannot be used: ${building.encoder_fault}`);
  const dead = building?.waiting.dead ?? active?.waiting.dead ?? 0;
  if (dead) say("warn", `${count(dead)} documents could not be embedded${building ? ", and the swap waits for them" : ""}: \`revector dlq list -c ${found.name}\``);
  if (open && waits.has(found.questions.approval)) say("warn", `revision ${open.revision} waits for an approval: Approve or Reject`);
  if (found.rollback?.clock_jumped) say("warn", "the database's clock jumped, so only a person ends the rollback window: Roll back or Retire now");
  if (found.next?.problem) say("warn", `the migration files cannot be used: ${found.next.problem}`);
  if (underWay(found, status).some((run) => run.state === "queued" && isPaused(run.dag, status))) say("warn", "a run waits for a DAG that is paused");
  return said;
}

// What goes on where nothing needs doing.
function goesOn(found, status) {
  const open = found.migration;
  if (open?.building) {
    const { planned, published, eta_s: eta } = open.progress;
    return `revision ${open.revision} is being built, ${planned ? Math.floor((100 * published) / planned) : 0} % embedded${eta == null ? "" : `, ${span(eta)} left`}`;
  }
  if (found.rollback) return `${rolledBack(found) ? "going forward again" : "going back"} is possible until ${utc(found.rollback.deadline).slice(0, 16)} UTC`;
  if (underWay(found, status).length) return "a run is under way in Airflow";
  if (found.next) return `revision ${found.next.revision} may be started`;
  return found.slots.active ? "no migration is open" : "nothing is indexed yet";
}

const marked = (words) => words.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

export function doing(shown, status, waits) {
  const lines = shown.flatMap((found) => needs(found, status, waits).map(([level, words]) => [level, found.name, words]));
  lines.sort(([one], [other]) => Number(one === "warn") - Number(other === "warn"));
  const rows = lines.length ? lines.map(([level, name, words]) => el("li", { class: level }, el("b", {}, `${name}: `), ...marked(words), "."))
    : [el("li", { class: "good" }, el("b", {}, "Nothing needs doing. "), shown.map((found) => `${found.name}: ${goesOn(found, status)}.`).join(" "))];
  return el("ul", { id: "doing", role: "list", "aria-label": "What needs doing", "aria-live": lines.length ? "polite" : "off" }, ...rows);
}
