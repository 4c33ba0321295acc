// One collection as it stands: its slots, the open migration, the rollback window and what the gate measured.

import { adopted } from "./adoption.js";
import { age, clock, count, el, mib, ratio, span, spaced, table, utc } from "./dom.js";
import { buttons, last, note, rolledBack } from "./moves.js";
import { begun, otherRuns, waiting } from "./runs.js";

export function card(found, status, waits, own) {
  const head = el("div", { class: "head" }, el("h2", {}, found.name));
  if (found.problem) return el("article", { "data-key": `problem ${found.name}` }, head, el("p", { class: "problem" }, found.problem));
  const active = found.slots.active;
  if (active) head.append(el("span", { class: "soft" }, `${count(found.documents)} documents, answered from revision ${active.revision} (${active.model})`));
  const said = note(found);
  return el("article", { "data-key": found.name },
    ...[head, slots(found), adopted(found, status), begun(found, status), migration(found, waits), rollbackWindow(found), waiting(found, status), otherRuns(found, status), said && el("section", { "data-key": "said" }, said), gate(found),
      ...own.map((key) => el("section", { "data-key": `${key} ${found.name}`, "data-own": true }))].filter(Boolean));
}

function slots(found) {
  const rows = ["active", "standby", "building"].filter((role) => found.slots[role]).map((role) => {
    const slot = found.slots[role];
    const { live, bulk, dead } = slot.waiting;
    const fault = slot.encoder_fault ? el("span", { class: "bad", title: slot.encoder_fault }, " encoder fails") : null;
    return [el("span", { class: `badge ${role}` }, role), el("span", { title: slot.message }, el("code", {}, slot.revision)),
      el("span", {}, `${slot.model} (${slot.dim})`, fault), slot.index_kind, slot.state, mib(slot.bytes), age(slot.live_at ?? slot.registered_at),
      count(live + bulk), live + bulk ? span(slot.lag_s) : "–", el("span", { class: dead ? "bad" : null }, count(dead))];
  });
  if (!rows.length) {
    return el("section", {}, el("p", { class: "soft" }, "Nothing is indexed yet."));
  }
  return el("section", { class: "scroll", "data-key": "slots" }, table(`Indexes of ${found.name}`,
    ["slot", "revision", "model", "index", "state", "#size", "#age", "#waiting", "#lag", "#dead"], rows));
}

function migration(found, waits) {
  const open = found.migration;
  if (!open) return null;
  const line = el("ol", { class: "steps" }, ...open.steps.map((step) => el("li", {
    class: step.state, title: `this step ${step.does}`, "aria-current": step.state === "current" ? "step" : null }, step.name)));
  const title = el("h3", {}, `Migration to ${open.revision}${open.building ? "" : `: ${spaced(open.phase)}`}`);
  if (!open.building) return el("section", { "data-key": "steps" }, title, line);
  const { planned, published, chunks, documents_per_s: rate, eta_s: eta } = open.progress;
  const share = planned ? published / planned : 0;
  const { dead, live } = found.slots.building.waiting;
  const fact = (name, value, bad) => el("span", { class: bad ? "bad" : null }, `${name} `, el("b", {}, value));
  const refused = open.gate && !open.gate.passed && !open.gate.overridden;
  const moves = waits.has(found.questions.approval) ? ["approve", "reject"] : [];
  return el("section", { "data-key": "progress" },
    el("div", { class: "row" }, title, buttons(found, moves)), line,
    el("progress", { max: 1, value: share, "aria-label": "documents embedded" }),
    el("div", { class: "facts" },
      fact("embedded", `${count(published)} of ${count(planned)} documents (${Math.floor(share * 100)} %)`),
      chunks ? fact("chunks", count(chunks)) : null,
      rate ? fact("rate", `${rate.toFixed(1)}/s`) : null,
      eta != null ? fact("left", span(eta)) : null,
      fact("shards done", `${open.shards.filter((shard) => shard.done).length} of ${open.shards.length}`),
      live ? fact("lag", span(found.slots.building.lag_s)) : null,
      fact("dead letters", count(dead), dead > 0)),
    last(found, refused ? ["override", "abort"] : ["abort"]));
}

function plot(marks) {
  const low = Math.max(0, Math.min(...marks.map(([, v]) => v.low)) - 0.02);
  const high = Math.min(1, Math.max(...marks.map(([, v]) => v.high)) + 0.02);
  const x = (value) => 40 + (250 * (value - low)) / (high - low || 1);
  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const drawing = svg("svg", { viewBox: "0 0 300 74", role: "img" }, svg("title", {}, "recall with its intervals"));
  marks.forEach(([name, value], i) => {
    const y = 14 + 22 * i;
    drawing.append(svg("text", { x: 0, y: y + 4 }, name),
      svg("line", { class: name, x1: x(value.low), x2: x(value.high), y1: y, y2: y, "stroke-width": 2 }),
      svg("circle", { class: name, cx: x(value.mean), cy: y, r: 4.5 }));
  });
  drawing.append(svg("line", { class: "axis", x1: 40, x2: 290, y1: 56, y2: 56 }),
    svg("text", { x: 40, y: 71 }, low.toFixed(2)), svg("text", { x: 290, y: 71, "text-anchor": "end" }, high.toFixed(2)));
  return drawing;
}

function gate(found) {
  const result = found.migration?.gate;
  if (!result?.new) return null;
  const sides = ["old", "new"].filter((side) => result[side]);
  const row = (name, value) => [name, ratio(value.mean), `${ratio(value.low)} to ${ratio(value.high)}`];
  const rows = sides.map((side) => row(`${side}: revision ${result[side].revision}`, result[side].recall));
  if (result.difference) rows.push(row("difference", result.difference));
  const percent = 100 * (result.gate?.confidence ?? 0.95);
  const judged = result.verdict === "inconclusive" ? "Inconclusive" : "Failed";
  const verdict = result.passed ? "Passed." : `${judged}: ${result.reasons.join("; ")}.`;
  const overridden = result.overridden ? ` Overridden by ${result.overridden.by}: ${result.overridden.reason}.` : "";
  const by = result.judged_by ? ` Judged by ${result.judged_by}.` : "";
  const worst = result.worst_slice ? ` The worst slice is ${result.worst_slice.words}.` : "";
  return el("section", { "data-key": "gate" },
    el("div", { class: "row" }, el("h3", {}, `Gate: recall@${result.k} on ${count(result.queries)} labelled queries`),
      reportButton(found.name, result.id, "Gate report")),
    el("div", { class: "gate" }, table("What the gate measured", ["", "#mean", `#${Number(percent.toPrecision(6))} % interval`], rows), plot(sides.map((side) => [side, result[side].recall]))),
    el("p", { class: `note ${result.passed ? "good" : "bad"}` }, `${verdict}${by}${worst}${overridden} Measured ${utc(result.at).slice(0, 16)} UTC on ${result.labels}.`));
}

// Opens the report over the page; it is a page of its own, too.
export function reportButton(collection, result, words) {
  const address = `gate/${encodeURIComponent(collection)}/${result}`;
  return el("button", { type: "button", class: "small", onclick: () => {
    document.getElementById("report-link").href = address;
    document.getElementById("report-frame").src = address;
    document.getElementById("report").showModal();
  } }, words);
}

function rollbackWindow(found) {
  if (!found.rollback) return null;
  const { seconds_left: left, clock_jumped: jumped, deadline } = found.rollback;
  const open = found.migration;
  return el("section", { "data-key": "window" },
    el("h3", {}, "Rollback window"),
    el("div", { class: "window" }, el("span", { class: "clock", "data-left": left }, clock(left)),
      el("span", {}, el("b", {}, "until ", el("time", { datetime: deadline }, `${utc(deadline).slice(0, 16)} UTC`)), el("br"), el("span", { class: "soft" },
        jumped ? "The database's clock jumped: only a person ends this window. " : null, rolledBack(found)
          ? `Rolled back. Revision ${open.revision} still receives every write: going forward again loses nothing.`
          : "The old index still receives every write: going back loses nothing.")),
      buttons(found, [rolledBack(found) ? "swap" : "rollback"])),
    last(found, ["retire"]));
}
