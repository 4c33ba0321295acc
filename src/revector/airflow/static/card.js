// The card on Airflow's dashboard: a line for each collection. Airflow hands us its own React and components.

const { createElement: h, useEffect, useState } = globalThis.React;
const { Badge, Box, Heading, HStack, Link, Text } = globalThis.ChakraUI;
const PERIOD_MS = 10000;
const at = (path) => new URL(path, document.baseURI).href; // the base is Airflow's root, whatever its path prefix

function told({ name, migration: open, rollback, problem, next }, runs) {
  if (problem) return ["red", "problem", problem];
  const begun = runs.find((run) => run.collection === name && run.revision && !run.action);
  if (begun && !open) return ["blue", begun.tasks[0] ?? begun.state, `a migration to ${begun.revision} is under way`];
  if (open?.building) {
    const { planned, published } = open.progress;
    const step = open.steps.find(({ state }) => state === "current")?.name;
    return ["blue", step, `migrating to ${open.revision}: ${planned ? Math.floor((100 * published) / planned) : 0} % embedded`];
  }
  if (rollback) {
    const hours = rollback.seconds_left / 3600;
    const left = hours >= 1 ? `${Math.floor(hours)} h` : `${Math.ceil(hours * 60)} min`;
    return ["orange", open?.phase === "rolled_back" ? "rolled back" : "rollback window", `${left} left to go back`];
  }
  if (next) return next.problem ? ["red", "problem", next.problem] : ["gray", "waiting", `revision ${next.revision} waits for its migration`];
  return ["green", "steady", "no migration is open"];
}

function line(found, runs) {
  const [colour, word, rest] = told(found, runs);
  const active = found.slots?.active;
  return h(HStack, { key: found.name, gap: 3 },
    h(Text, { fontWeight: "medium" }, found.name),
    h(Badge, { colorPalette: colour, variant: "subtle" }, word),
    h(Text, { color: "fg.muted", flex: 1, truncate: true, title: rest }, active ? `on ${active.revision} (${active.model}); ${rest}` : rest),
    found.dead_letters ? h(Badge, { colorPalette: "red" }, `${found.dead_letters} dead letters`) : null);
}

globalThis.RevectorCard = function RevectorCard() {
  const [found, setFound] = useState(null);
  useEffect(() => {
    const read = async () => {
      const answer = document.hidden ? null : await fetch(at("revector/ui/data/status")).catch(() => null);
      if (answer?.ok) setFound(await answer.json());
    };
    read();
    const timer = setInterval(read, PERIOD_MS);
    return () => clearInterval(timer);
  }, []);
  // Who may not see the page sees no card.
  if (!found) return null;
  return h(Box, { order: 2 },
    h(HStack, { mb: 2 }, h(Heading, { size: "sm" }, "Embedding migrations"), h(Link, { href: at("plugin/revector"), color: "fg.info", fontSize: "sm" }, "Open")),
    h(Box, { borderWidth: 1, borderRadius: 8, p: 3, display: "grid", gap: 2, fontSize: "sm" }, ...found.collections.map((one) => line(one, found.airflow.runs))));
};
