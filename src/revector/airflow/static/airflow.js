// Airflow around the page: its API with the signed-in user's rights, its theme, and links that leave our frame.

const API = "../../api/v2"; // relative, as everything here, so that it works under any path prefix
const FOLLOW_MS = 1500;
const HUNDRED = "limit=100";

export async function call(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { "Content-Type": "application/json", Accept: "application/json" } });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const words = typeof body.detail === "string" ? body.detail : body.detail?.reason ?? body.detail?.[0]?.msg;
  throw new Error(words ?? `the server answered ${answer.status}`);
}

const runPath = (dag, run) => `${API}/dags/${encodeURIComponent(dag)}/dagRuns/${encodeURIComponent(run)}`;

export const readDag = (dag) => call(`${API}/dags/${encodeURIComponent(dag)}/details`);
export const readRun = (dag, run) => call(runPath(dag, run));

// Questions that wait for a person, by their subject.
export async function questions() {
  const waiting = await call(`${API}/dags/~/dagRuns/~/hitlDetails?response_received=false&${HUNDRED}`);
  return new Map(waiting.hitl_details.map((one) => [one.subject, one]));
}

export async function answer(question, option, reason) {
  const { dag_id, dag_run_id, task_id, map_index } = question.task_instance;
  await call(`${runPath(dag_id, dag_run_id)}/taskInstances/${encodeURIComponent(task_id)}/${map_index}/hitlDetails`,
    { method: "PATCH", body: JSON.stringify({ chosen_options: [option], params_input: { reason } }) });
  return { dag: dag_id, run: dag_run_id };
}

export async function trigger(dag, conf, note) {
  const body = JSON.stringify({ logical_date: null, conf, note });
  const made = await call(`${API}/dags/${encodeURIComponent(dag)}/dagRuns`, { method: "POST", body });
  return { dag, run: made.dag_run_id };
}

export const unpause = (dag) => call(`${API}/dags/${encodeURIComponent(dag)}`, { method: "PATCH", body: JSON.stringify({ is_paused: false }) });

// Wait until a run has ended; `told` hears its state. Throws with the task's own words if it failed.
export async function follow({ dag, run }, told) {
  for (;;) {
    const { state } = await readRun(dag, run);
    told(state);
    if (state === "success") return;
    if (state === "failed") throw new Error(await reasonOf(dag, run));
    await new Promise((resolve) => setTimeout(resolve, FOLLOW_MS));
  }
}

async function reasonOf(dag, run) {
  try {
    const { task_instances: tasks } = await call(`${runPath(dag, run)}/taskInstances?state=failed&${HUNDRED}`);
    const task = tasks[0];
    const log = await call(`${runPath(dag, run)}/taskInstances/${encodeURIComponent(task.task_id)}/logs/${task.try_number}`
      + `?map_index=${task.map_index}&full_content=true`);
    const errors = log.content.flatMap((line) => line.error_detail ?? []);
    if (errors.length) return errors.at(-1).exc_value;
  } catch {
    // Not everybody may read logs; the link to the run is shown anyway.
  }
  return "The run failed; its log says why.";
}

// Links to Airflow's own pages. Our frame may not navigate the window around it, but a link of that window may.
function link(path, words, title) {
  const made = document.createElement("a");
  made.href = `../../${path}`;
  made.textContent = words;
  made.title = title;
  made.addEventListener("click", (event) => {
    if (window.parent === window) return;
    event.preventDefault();
    const outer = window.parent.document.createElement("a");
    outer.href = made.href;
    outer.click();
  });
  return made;
}

export function runLink({ dag, run, task }, words = task ?? "run") {
  const path = `dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(run)}`;
  return link(task ? `${path}/tasks/${encodeURIComponent(task)}` : path, words, `${dag}, run ${run}`);
}

export const airflowLink = (dag, words = dag) => link(`dags/${encodeURIComponent(dag)}`, words, `the DAG ${dag}`);

export function followTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let host = null;
  try {
    host = window.parent === window ? null : window.parent.document.documentElement;
  } catch {
    // Embedded from another origin, whose theme is its own: the system's has to do.
  }
  const set = () => {
    const chosen = host?.classList.contains("dark") ? true : host?.classList.contains("light") ? false : system.matches;
    document.documentElement.classList.toggle("dark", chosen);
  };
  set();
  system.addEventListener("change", set);
  if (host) new MutationObserver(set).observe(host, { attributes: true, attributeFilter: ["class"] });
}
