// The page: what is chosen, what is asked of the server, and what is said of the answer.

import { element } from "./draw.js";
import { asCurl, asPython, ask } from "./request.js";
import { QUERIES, TASKS } from "./texts.js";
import { $, PASSAGE, QUERY, VIEWS, full, serves, sides, state } from "./views.js";

const SETTLES = 200; // ms without a change of a setting, then it is asked
const tabs = [...document.querySelectorAll("[role=tab]")];

/** What the server gave, with tokens and times summed over the requests of a view. */
async function embed(requests) {
  state.running?.abort();
  const { signal } = (state.running = new AbortController());
  const key = $("key").value;
  const done = [];
  for (const { body } of requests) done.push(await ask("v1/embeddings", { body, key, signal }));
  return {
    vectors: done.map(({ answer }) => answer.data.map((item) => item.embedding)),
    tokens: done.reduce((sum, { answer }) => sum + answer.usage.total_tokens, 0),
    server: done.reduce((sum, { server }) => sum + server, 0),
    all: done.reduce((sum, { all }) => sum + all, 0),
    warnings: [...new Set(done.flatMap(({ answer }) => warned(answer)))],
  };
}

function warned(answer) {
  const cut = (answer.truncated ?? []).map((i) => i + 1);
  const own = cut.length ? [`Longer than the model takes, so only the beginning counts: text ${cut.join(", ")}`] : [];
  return [...(answer.warnings ?? []), ...own];
}

async function run() {
  $("error").hidden = true;
  document.body.classList.remove("stale");
  try {
    if (!state.model) await learn();
    const view = VIEWS[state.view];
    const asked = view.requests();
    state.requests = asked.requests;
    showCode();
    document.body.classList.add("busy");
    const given = await embed(asked.requests);
    const told = view.draw(asked, given);
    showStatus(asked.requests, given, told);
    $("results").dataset.done = state.view;
  } catch (error) {
    if (error.name === "AbortError") return;
    showError(error);
  }
  document.body.classList.remove("busy");
}

function showStatus(requests, { tokens, server, all, warnings, vectors }, told) {
  const texts = requests.reduce((sum, { body: asked }) => sum + asked.input.length, 0);
  const facts = [
    `${texts} ${texts === 1 ? "text" : "texts"}`,
    `${tokens} tokens`,
    `${vectors[0][0].length} numbers each`,
    ...(server ? [`${server.toFixed(1)} ms in the server`] : []),
    `${all.toFixed(0)} ms with the way there and back`,
  ];
  $("status").replaceChildren(element("strong", {}, told), ` ${facts.join(" · ")}`);
  $("warnings").hidden = !warnings.length;
  $("warnings").replaceChildren(...warnings.map((text) => element("li", {}, text)));
}

function showError(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
  $("error").scrollIntoView({ block: "nearest" });
  document.body.classList.add("stale"); // what is drawn is of another request
  $("status").textContent = "\u00a0";
  $("warnings").hidden = true;
  if (!state.model) $("served").textContent = "Not connected";
  if (error.status === 401) {
    $("key-field").hidden = false;
    $("key").focus();
    showCode();
  }
}

function showCode() {
  const key = !$("key-field").hidden;
  $("code").textContent = (state.code === "curl" ? asCurl : asPython)(state.requests, key);
  for (const button of document.querySelectorAll("[data-code]")) {
    button.setAttribute("aria-pressed", String(button.dataset.code === state.code));
  }
}

async function copy() {
  const text = $("code").textContent;
  try {
    await navigator.clipboard.writeText(text);
    $("copy").textContent = "Copied";
  } catch {
    // Without HTTPS, and not from this machine, a page may not: mark it, so that the keys do.
    getSelection().selectAllChildren($("code"));
    $("copy").textContent = "Marked";
  }
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
}

function show(view) {
  state.view = view;
  state.redraw = null;
  for (const tab of tabs) {
    const chosen = tab.dataset.view === view;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen) $("panel").setAttribute("aria-labelledby", tab.id);
  }
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== view;
  $("run").textContent = VIEWS[view].run;
  showSides();
  history.replaceState(null, "", `#${view}`);
  run();
}

function showSides() {
  $("task-field").hidden = sides();
  $("roles").hidden = !sides();
}

function chooseTab(event) {
  const moves = { ArrowRight: 1, ArrowLeft: -1 };
  const at = tabs.indexOf(event.target);
  const to = { Home: 0, End: tabs.length - 1 }[event.key] ?? at + (moves[event.key] ?? 0);
  if (to === at) return;
  event.preventDefault();
  const tab = tabs[(to + tabs.length) % tabs.length];
  tab.focus();
  show(tab.dataset.view);
}

function showModel() {
  const { tasks, dimensions } = state.model;
  $("task").replaceChildren(...tasks.map((task) => element("option", { value: task }, task)));
  $("task").value = ["text-matching", "base"].find(serves) ?? tasks[0];
  $("roles").textContent =
    `The question is embedded for ${QUERY}, the passages for ${PASSAGE}: each side as it was trained.`;
  const most = full();
  for (const id of ["dimensions", "exact"]) {
    $(id).max = most;
    $(id).value = most;
  }
  $("trained").replaceChildren(...dimensions.map(chip(setWidth)));
  $("marks").replaceChildren(...dimensions.map((width) => {
    const mark = element("i");
    mark.style.setProperty("--at", String((width - 1) / Math.max(1, most - 1)));
    return mark;
  }));
  hints();
}

function chip(choose) {
  return (value) => {
    const button = element("button", { type: "button" }, String(value));
    button.addEventListener("click", () => choose(value));
    return button;
  };
}

function setWidth(width) {
  if (!state.model) return;
  const whole = Math.min(full(), Math.max(1, Math.round(width) || full()));
  $("dimensions").value = whole;
  $("exact").value = whole;
  hints();
  settle();
}

function hints() {
  $("task-hint").textContent = TASKS[$("task").value] ?? "";
  const width = Number($("dimensions").value);
  const trained = state.model.dimensions.includes(width);
  $("width-hint").textContent = trained
    ? `Shorter vectors need less room and are a little less exact. ${width} was trained.`
    : `${width} was not trained: it works, but the trained length below it may do as well.`;
  for (const button of $("trained").children) {
    button.setAttribute("aria-pressed", String(Number(button.textContent) === width));
  }
}

let timer;
function settle() {
  clearTimeout(timer);
  timer = setTimeout(run, SETTLES);
}

function listen() {
  $("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    await run();
    // In one column the answer is below what was filled in.
    if (matchMedia("(max-width: 62rem)").matches) $("results").scrollIntoView();
  });
  $("form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  $("example").addEventListener("click", () => {
    VIEWS[state.view].fill();
    run();
  });
  $("task").addEventListener("change", () => {
    hints();
    run();
  });
  $("model").addEventListener("change", () => {
    state.model = state.models.find(({ id }) => id === $("model").value);
    showModel();
    show(state.view);
  });
  $("dimensions").addEventListener("input", () => setWidth($("dimensions").valueAsNumber));
  $("exact").addEventListener("change", () => setWidth($("exact").valueAsNumber));
  $("sentences").addEventListener("change", settle);
  $("copy").addEventListener("click", copy);
  for (const button of document.querySelectorAll("[data-code]")) {
    button.addEventListener("click", () => {
      state.code = button.dataset.code;
      showCode();
    });
  }
  for (const tab of tabs) {
    tab.addEventListener("click", () => show(tab.dataset.view));
    tab.addEventListener("keydown", chooseTab);
  }
  new ResizeObserver(() => state.redraw?.()).observe($("panel"));
}

/** The models, which a server with keys tells only those who have one. */
async function learn() {
  const { answer } = await ask("v1/models", { key: $("key").value });
  state.models = answer.data;
  state.model = state.models[0];
  $("model").replaceChildren(...state.models.map(({ id }) => element("option", { value: id }, id)));
  $("model-field").hidden = state.models.length < 2;
  $("served").textContent = state.models.map(({ id }) => id).join(", ");
  $("dot").classList.add("on");
  showModel();
  showSides();
}

for (const view of Object.values(VIEWS)) view.fill();
$("queries").append(...QUERIES.map(chip((query) => {
  $("query").value = query;
  run();
})));
listen();
const asked = location.hash.slice(1);
show(asked in VIEWS ? asked : "compare");
