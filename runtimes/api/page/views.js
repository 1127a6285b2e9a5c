// The three things that the page shows: what each asks of the server, and what it draws of the answer.

import { drawFlow, drawMap, drawMatrix, drawRanks, drawScores, element, range, two } from "./draw.js";
import { cosine, cosines, principal } from "./maths.js";
import { COMPARE, DOCUMENT, PASSAGES, QUERIES, QUESTION } from "./texts.js";

const MOST = 100; // texts that are drawn; the API takes more
export const QUERY = "retrieval.query";
export const PASSAGE = "retrieval.passage";

/** What is chosen; `redraw` draws what depends on the window's width once more. */
export const state = {
  models: [], model: null, view: "compare", code: "curl", requests: [], running: null, redraw: null,
};

export const $ = (id) => document.getElementById(id);

/** A request for texts; what is left out is the server's default. */
function body(input, task, more = {}) {
  const width = Number($("dimensions").value);
  return {
    model: state.model.id,
    input,
    ...(task ? { task } : {}),
    ...(width < full() ? { dimensions: width } : {}),
    ...more,
  };
}

const lines = (id) => $(id).value.split("\n").map((line) => line.trim()).filter(Boolean);
export const full = () => Math.max(...state.model.dimensions);
export const serves = (task) => state.model?.tasks.includes(task);
export const sides = () => state.view !== "compare" && serves(QUERY) && serves(PASSAGE);

export const VIEWS = {
  compare: {
    run: "Compare",
    fill: () => ($("texts").value = COMPARE.join("\n")),
    requests() {
      const texts = some(lines("texts"), "Write a text or more, one per line.");
      return { texts, requests: [{ name: "answer", body: body(texts, $("task").value) }] };
    },
    draw({ texts }, { vectors: [vectors] }) {
      const matrix = cosines(vectors);
      const map = principal(vectors);
      drawMatrix($("matrix"), $("legend"), texts, matrix);
      const [x, y] = map.shares.map((share) => `${Math.round(share * 100)} %`);
      $("map-note").textContent =
        `A vector has ${vectors[0].length} numbers. The map keeps the two directions in which these ` +
        `texts differ most: ${x} of the differences across, ${y} up. A line goes from each text to ` +
        "the one that is most like it.";
      state.redraw = () => drawMap($("map"), texts, map.points, matrix);
      state.redraw();
      return closest(matrix);
    },
  },
  search: {
    run: "Search",
    fill() {
      $("query").value = QUERIES[0];
      $("passages").value = PASSAGES.join("\n");
    },
    requests() {
      const query = one("query", "Write a question.");
      const passages = some(lines("passages"), "Write a passage or more, one per line.");
      const requests = [
        { name: "question", body: body([query], sides() ? QUERY : $("task").value) },
        { name: "passages", body: body(passages, sides() ? PASSAGE : $("task").value) },
      ];
      return { passages, requests };
    },
    draw({ passages }, { vectors: [[query], found] }) {
      const scores = found.map((vector) => cosine(query, vector));
      drawRanks($("ranks"), passages, scores);
      const best = scores.indexOf(Math.max(...scores));
      return `The best is passage ${best + 1}, with ${two(scores[best])}.`;
    },
  },
  chunks: {
    run: "Compare",
    fill() {
      $("document").value = DOCUMENT;
      $("question").value = QUESTION;
      $("sentences").value = 1;
    },
    requests() {
      const question = one("question", "Write a question.");
      const chunks = some(cut($("document").value, $("sentences").valueAsNumber), "Write a document.");
      const task = sides() ? PASSAGE : $("task").value;
      const requests = [
        { name: "question", body: body([question], sides() ? QUERY : task) },
        { name: "plain", body: body(chunks, task) },
      ];
      if (state.model.late_chunking) {
        requests.push({ name: "late", body: body(chunks, task, { late_chunking: true }) });
      }
      return { chunks, requests };
    },
    draw({ chunks }, { vectors: [[question], ...kinds] }) {
      const [plain, late] = kinds.map((found) => found.map((vector) => cosine(question, vector)));
      const both = [...plain, ...(late ?? [])];
      const scale = [Math.min(...both), Math.max(...both)];
      drawFlow($("plain"), chunks, plain, scale);
      if (late) drawFlow($("late"), chunks, late, scale);
      else {
        const note = "The bundle that this server runs has no late chunking. Build one with HEAD=chunks.";
        $("late").replaceChildren(element("p", { class: "hint" }, note));
      }
      drawScores($("scores"), chunks, plain, late ?? null);
      const best = (scores) => {
        const i = scores.indexOf(Math.max(...scores));
        return `chunk ${i + 1} (${two(scores[i])})`;
      };
      return `Best by itself: ${best(plain)}${late ? `; with late chunking: ${best(late)}` : ""}.`;
    },
  },
};

function some(texts, otherwise) {
  if (!texts.length) throw new Error(otherwise);
  if (texts.length > MOST) throw new Error(`This page draws up to ${MOST} texts; here are ${texts.length}.`);
  return texts;
}

function one(id, otherwise) {
  return some([$(id).value.trim()].filter(Boolean), otherwise)[0];
}

/** A document in chunks of so many sentences. */
function cut(text, count) {
  const segments = new Intl.Segmenter(undefined, { granularity: "sentence" }).segment(text);
  const sentences = [...segments].map(({ segment }) => segment.trim()).filter(Boolean);
  const size = Number.isInteger(count) && count > 0 ? count : 1;
  const starts = sentences.map((_, i) => i).filter((i) => i % size === 0);
  return starts.map((i) => sentences.slice(i, i + size).join(" "));
}

function closest(matrix) {
  if (matrix.length < 2) return "";
  const [low, high] = range(matrix);
  const find = (value) => {
    const i = matrix.findIndex((row, a) => row.some((x, b) => a !== b && x === value));
    return `${i + 1} and ${matrix[i].findIndex((x, b) => b !== i && x === value) + 1}`;
  };
  return `Most alike: ${find(high)} (${two(high)}); least: ${find(low)} (${two(low)}).`;
}
