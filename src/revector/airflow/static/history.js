// The history: who did what when and why, filtered and paged by the server, its hash chain, and its exports.

import { call, runLink } from "./airflow.js";
import { reportButton } from "./collection.js";
import { count, el, spaced, table, utc } from "./dom.js";

const TYPING_MS = 300;
const DAY_MS = 86400000;

export class History {
  constructor(collection, run) {
    this.collection = collection;
    this.run = run; // of Airflow: only its events, or null for all
    this.newer = []; // the `before` of each page between the newest and this one
    this.before = null;
    this.asked = 0;
    this.table = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `history of ${collection}` });
    this.pages = el("div", { class: "row" });
    this.chain = el("span", { role: "status" });
    this.form = this.filters();
    this.exports = ["csv", "parquet"].map((form) => el("a", { class: "button small", download: true }, form === "csv" ? "CSV" : "Parquet"));
    this.element = el("div", { class: "history" },
      el("div", { class: "row" }, el("h3", {}, run ? "History of this run" : "History"),
        el("span", { class: "chain" }, this.chain, el("button", { type: "button", class: "small", onclick: () => this.check() }, "Check now")),
        el("span", {}, "Export ", ...this.exports)),
      this.form, this.table, this.pages);
    this.load();
    this.check();
  }

  filters() {
    let typing = 0;
    const soon = () => { clearTimeout(typing); typing = setTimeout(() => this.first(), TYPING_MS); };
    const id = `who ${this.collection}`;
    this.kinds = el("select", { name: "kind", "aria-label": "what" }, el("option", { value: "" }, "every kind"));
    this.generations = el("select", { name: "gen", "aria-label": "generation" }, el("option", { value: "" }, "every generation"));
    this.actors = el("datalist", { id });
    return el("form", { class: "filters", role: "search", onsubmit: (event) => { event.preventDefault(); this.first(); }, oninput: soon,
      onreset: () => setTimeout(() => this.first()) },
    el("input", { type: "search", name: "text", placeholder: "search", "aria-label": "search text", maxlength: 500 }), this.kinds,
    el("input", { name: "actor", list: id, placeholder: "person", "aria-label": "person", maxlength: 500 }), this.actors, this.generations,
    el("label", {}, "from ", el("input", { type: "date", name: "since" })), el("label", {}, "to ", el("input", { type: "date", name: "until" })),
    el("button", { type: "reset", class: "small" }, "Clear"));
  }

  query(more = {}) {
    const given = Object.fromEntries([...new FormData(this.form)].map(([name, value]) => [name, value.trim()]));
    const day = (value, later) => (value ? new Date(Date.parse(`${value}T00:00Z`) + later).toISOString() : "");
    const all = { ...given, since: day(given.since, 0), until: day(given.until, DAY_MS), run: this.run ?? "", ...more };
    return new URLSearchParams(Object.entries(all).filter(([, value]) => value !== "" && value != null));
  }

  path = (rest = "") => `data/history/${encodeURIComponent(this.collection)}${rest}`;

  first() {
    this.newer = [];
    this.before = null;
    return this.load();
  }

  // Something new is in the history: show it, unless an older page is being read.
  moved() {
    if (this.before == null) this.load();
  }

  async load() {
    const number = ++this.asked;
    try {
      const found = await call(`${this.path()}?${this.query({ before: this.before })}`);
      if (number === this.asked) this.draw(found);
    } catch (error) {
      if (number === this.asked) this.table.replaceChildren(el("p", { class: "bad" }, error.message));
    }
  }

  draw({ events, older, first, matching, choices }) {
    fill(this.kinds, choices.kinds.map((kind) => [kind, spaced(kind)]));
    fill(this.generations, choices.generations.map(({ gen, revision }) => [String(gen), `${gen}: ${revision}`]));
    this.actors.replaceChildren(...choices.actors.map((actor) => el("option", { value: actor })));
    for (const [i, form] of ["csv", "parquet"].entries()) this.exports[i].href = `${this.path("/export")}?${this.query({ form })}`;
    this.table.replaceChildren(events.length ? table(`History of ${this.collection}`,
      ["when (UTC)", "who", "what", "generation", "reason", "evidence", "run"], events.map((event) => this.row(event)))
      : el("p", { class: "soft" }, "No event is like that."));
    const go = (words, before, enabled) => el("button", { type: "button", class: "small", disabled: !enabled, onclick: before }, words);
    this.pages.replaceChildren(
      el("span", { class: "soft" }, events.length ? `events ${count(first)} to ${count(first + events.length - 1)} of ${count(matching)}, the newest first` : ""),
      el("span", {}, go("Newer", () => { this.before = this.newer.pop(); this.load(); }, this.newer.length),
        go("Older", () => { this.newer.push(this.before); this.before = older; this.load(); }, older != null)));
  }

  row(event) {
    const { reason, airflow } = event.detail ?? {};
    const whole = el("details", {}, el("summary", { title: "all figures" }, event.sentence || "all figures"),
      el("pre", {}, JSON.stringify({ event: event.seq, epoch: event.epoch, ...event.detail, hash: event.hash }, null, 1)));
    return [el("time", { class: "when", datetime: event.at, title: event.at }, utc(event.at)), event.actor, spaced(event.kind),
      event.gen == null ? "–" : el("span", { title: event.revision ?? "" }, event.gen), reason ?? "–",
      el("div", {}, whole, event.gate_result ? reportButton(this.collection, event.gate_result, "Report") : null),
      airflow ? runLink({ dag: airflow.dag_id, run: airflow.run_id, task: airflow.task_id }) : "–"];
  }

  async check() {
    this.chain.className = "soft";
    this.chain.textContent = "checking the hash chain …";
    try {
      const { events, head, broken, at } = await call(this.path("/check"));
      const whole = !broken.length;
      this.chain.className = whole ? "good" : "bad";
      this.chain.title = head ? `The newest event's hash is ${head}. Noted elsewhere, it also shows later whether events were cut off at the end.` : "";
      this.chain.textContent = whole ? `✓ hash chain holds over ${count(events)} events${head ? ` (head ${head.slice(0, 12)}…)` : ""}, checked ${utc(at).slice(11)}`
        : `✗ tampered with: the chain breaks at event ${broken.slice(0, 5).map(count).join(", ")}${broken.length > 5 ? ", …" : ""}`;
    } catch (error) {
      this.chain.className = "bad";
      this.chain.textContent = error.message;
    }
  }
}

function fill(select, options) {
  const known = new Set([...select.options].map((option) => option.value));
  select.append(...options.filter(([value]) => !known.has(value)).map(([value, words]) => el("option", { value }, words)));
}
