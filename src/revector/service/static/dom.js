// Elements, tables, figures as people read them, and bringing what is shown to what should be. Texts become text nodes.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

// A head that begins with "#" is a column of figures. The caption is for those who hear the page.
export function table(caption, heads, rows) {
  const cell = (tag, more) => (value, i) => el(tag, { class: heads[i].startsWith("#") ? "number" : null, ...more },
    value instanceof Node ? value : String(value));
  return el("table", {}, el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...heads.map((head, i) => cell("th", { scope: "col" })(head.replace("#", ""), i)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell("td"))))));
}

export const count = (value) => (value == null ? "–" : Number(value).toLocaleString("en"));
export const ratio = (value) => (value == null ? "–" : Number(value).toFixed(4));
export const mib = (bytes) => `${(bytes / 2 ** 20).toLocaleString("en", { maximumFractionDigits: 1 })} MiB`;
export const utc = (iso) => `${new Date(iso).toISOString().slice(0, 19).replace("T", " ")}`; // every time on the page is UTC
export const age = (iso) => (iso ? span((Date.now() - Date.parse(iso)) / 1000) : "–");
export const spaced = (word) => word.replaceAll("_", " ");
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function span(seconds) {
  if (seconds == null) return "–";
  const s = Math.max(0, Math.round(seconds));
  const [d, h, m] = [Math.floor(s / 86400), Math.floor((s % 86400) / 3600), Math.floor((s % 3600) / 60)];
  if (d) return `${d} d ${h} h`;
  if (h) return `${h} h ${String(m).padStart(2, "0")} min`;
  return m ? `${m} min ${String(s % 60).padStart(2, "0")} s` : `${s} s`;
}

export function clock(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  return [Math.floor(s / 3600), Math.floor((s % 3600) / 60), s % 60].map((n) => String(n).padStart(2, "0")).join(":");
}

// A button under the pointer, the focus and the scrolling stay as they are. What has a data-key is matched by it; inside
// of what has data-own someone else draws.
export function morph(shown, wanted) {
  if (shown.nodeName !== wanted.nodeName) {
    shown.replaceWith(wanted);
    return;
  }
  if (shown.nodeType === Node.TEXT_NODE) {
    if (shown.data !== wanted.data) shown.data = wanted.data;
    return;
  }
  for (const { name } of [...shown.attributes]) if (!wanted.hasAttribute(name)) shown.removeAttribute(name);
  for (const { name, value } of wanted.attributes) if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  if (!("own" in shown.dataset)) morphChildren(shown, wanted);
}

function morphChildren(shown, wanted) {
  const key = (node) => node.dataset?.key;
  const then = [...wanted.childNodes];
  const kept = new Set(then.map(key));
  for (const child of [...shown.childNodes]) if (key(child) && !kept.has(key(child))) child.remove();
  then.forEach((child, i) => {
    const there = shown.childNodes[i];
    if (there && key(there) === key(child)) morph(there, child);
    else shown.insertBefore(child, there ?? null);
  });
  while (shown.childNodes.length > then.length) shown.lastChild.remove();
}
