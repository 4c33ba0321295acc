// Recall, queue and lag over time. The server draws: the same functions draw its reports.

import { call } from "./airflow.js";
import { el } from "./dom.js";

const PERIOD_MS = 60000;
const NAMES = { recall: "Recall of what is served (canary)", queue: "Queue depth", lag: "Indexing lag" };
const RANGES = { 24: "24 hours", 168: "7 days", 720: "30 days", 8760: "a year" };

export class Charts {
  constructor(collection) {
    this.collection = collection;
    this.drawn = el("div", { class: "charts" });
    this.range = el("select", { "aria-label": "time range", onchange: () => this.load() },
      ...Object.entries(RANGES).map(([hours, words]) => el("option", { value: hours, selected: hours === "168" }, words)));
    this.element = el("div", {}, el("div", { class: "row" }, el("h3", {}, "Over time"), this.range), this.drawn);
    this.load();
    setInterval(() => { if (!document.hidden) this.load(); }, PERIOD_MS);
  }

  async load() {
    try {
      const found = await call(`data/charts/${encodeURIComponent(this.collection)}?hours=${this.range.value}`);
      const charts = Object.entries(found).map(([name, svg]) => {
        const figure = el("figure", {}, el("figcaption", {}, NAMES[name]));
        figure.insertAdjacentHTML("beforeend", svg); // made by our server, which escapes every text
        return figure;
      });
      this.drawn.replaceChildren(...(charts.length ? charts
        : [el("p", { class: "soft" }, "Nothing was measured in this time. A worker keeps the load, the DAG revector_canary the recall.")]));
    } catch (error) {
      this.drawn.replaceChildren(el("p", { class: "bad" }, error.message));
    }
  }
}
