// What a collection has adopted: what was taken; of a table, whether its writes are followed, and what the last comparison
// with it found; of a copy, how it is read again.

import { airflowLink } from "./airflow.js";
import { age, el, utc } from "./dom.js";

const when = (iso) => el("time", { datetime: iso }, `${utc(iso).slice(0, 16)} UTC`);
const columns = (names) => (names.length ? names.join(", ") : "none");

export function adopted(found, status) {
  const table = found.adoption;
  if (!table) return null;
  const fact = (name, value) => el("span", {}, `${name} `, el("b", {}, value));
  return el("section", { "data-key": "adoption" },
    el("h3", {}, table.followed ? "Adopted table " : "Adopted by copy ", el("code", {}, table.table), " since ", when(table.since), ` (${age(table.since)})`),
    el("div", { class: "facts" },
      fact("rows", table.where ? `where ${table.where}` : "all"), fact("id", columns(table.id)), fact("text", columns(table.text)),
      fact("metadata", columns(table.meta)), fact("vectors", table.vector ? `column ${table.vector}, by ${table.model}` : `none taken: embedded by ${table.model}`)),
    table.vector ? el("p", { class: "note soft" }, `Proved when it was adopted: ${table.proof}.`) : null,
    ...(table.followed ? [followed(table), view(table), compared(table)] : [again(status)]), way(found, status));
}

function again(status) {
  const dag = status.airflow.dags.find((one) => one.dag === status.adopting_dag);
  return el("p", { class: "note soft" }, "What changes there is seen when it is read again: ", el("code", {}, "revector adopt"), ...(dag ? [", or the DAG ", airflowLink(dag.dag)] : []), ".");
}

function followed(table) {
  if (!table.faults.length) return el("p", { class: "note good" }, "Its writes are followed: every trigger is there and on.");
  return el("div", { class: "note bad" }, "Not every write of the application is followed:", el("ul", {}, ...table.faults.map((fault) => el("li", {}, fault))));
}

function view(table) {
  if (!table.view) return null;
  if (!table.view_faults.length) return el("p", { class: "note good" }, "The view ", el("code", {}, table.view), " reads the vectors that are served.");
  return el("div", { class: "note bad" }, el("ul", {}, ...table.view_faults.map((fault) => el("li", {}, fault))));
}

function compared(table) {
  if (!table.compared) return el("p", { class: "note soft" }, "No comparison with every row of it yet: ", el("code", {}, "revector_verify_full"), " makes one each week, ", el("code", {}, "revector verify"), " at once.");
  const { at, differing } = table.compared;
  if (!differing.length) return el("p", { class: "note good" }, "Compared row by row ", when(at), ": every row was a document as it stood.");
  return el("div", { class: "note bad" }, "Compared row by row ", when(at), ":", el("ul", {}, ...differing.map((said) => el("li", {}, said))));
}

// What to do, as the command says it; and the DAG that does the same, where it is what helps.
function way({ adoption }, status) {
  if (!adoption.advice) return null;
  const words = adoption.advice.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
  const dag = adoption.advice.includes("revector adopt") && status.airflow.dags.find((one) => one.dag === status.adopting_dag);
  return el("p", { class: "note warn" }, "What to do: ", ...words, ".", ...(dag ? [" The DAG ", airflowLink(dag.dag), " does the same."] : []));
}
