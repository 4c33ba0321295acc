// Recall, queue and lag over time. The server draws: the same functions draw its reports.

import { airflowLink, call } from "./airflow.js";
import { el } from "./dom.js";
import { isPaused, pausedNote } from "./runs.js";

const CANARY = "revector_canary";
const PERIOD_MS = 60000;
const NAMES = { recall: "Recall of what is served (canary)", queue: "Queue depth", lag: "Indexing lag" };
const RANGES = { 24: "24 hours", 168: "7 days", 720: "30 days", 8760: "a year" };

export class Charts {
  constructor(collection, status, refresh) {
    Object.assign(this, { collection, status, refresh });
    this.drawn = el("div", { class: "charts" });
    this.range = el("select", { "aria-label": "time range", onchange: () => this.load() },
      ...Object.entries(RANGES).map(([hours, words]) => el("option", { value: hours, selected: hours === "168" }, words)));
    this.element = el("div", {}, el("div", { class: "row" }, el("h3", {}, "Over time"), this.range), this.drawn);
    this.load();
    setInterval(() => { if (!document.hidden) this.load(); }, PERIOD_MS);
  }

  // Who would fill an empty chart, and whether anything keeps it from that.
  filler(name) {
    if (name !== "recall") return ["Nothing was measured in this time. A running ", el("code", {}, "revector worker"), " measures it every minute."];
    const status = this.status();
    const known = status.airflow.dags.some(({ dag }) => dag === CANARY);
    const by = known ? ["The DAG ", airflowLink(CANARY)] : [el("code", {}, "revector canary")];
    const paused = isPaused(CANARY, status) ? [" ", pausedNote(CANARY, status, this.refresh)] : [];
    return ["Nothing was measured in this time. ", ...by, " measures it once a day.", ...paused];
  }

  async load() {
    try {
      const found = await call(`data/charts/${encodeURIComponent(this.collection)}?hours=${this.range.value}`);
      this.drawn.replaceChildren(...Object.entries(NAMES).map(([name, words]) => {
        const figure = el("figure", {}, el("figcaption", {}, words));
        if (found[name]) figure.insertAdjacentHTML("beforeend", found[name]); // made by our server, which escapes every text
        else figure.append(el("p", { class: "empty soft" }, ...this.filler(name)));
        return figure;
      }));
    } catch (error) {
      this.drawn.replaceChildren(el("p", { class: "bad" }, error.message));
    }
  }
}
