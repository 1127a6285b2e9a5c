// What is drawn from vectors. Texts go in as text, never as HTML.

const STEPS = 8; // of the scale of colours, h0 to h8 in page.css
const SVG = "http://www.w3.org/2000/svg";
const MORE_THAN = 40; // texts: then the matrix shows no numbers in its cells

export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Which step of the scale a value between `low` and `high` has. */
function step(value, [low, high]) {
  const share = high - low > 1e-9 ? (value - low) / (high - low) : 1;
  return Math.round(Math.min(1, Math.max(0, share)) * STEPS);
}

export const two = (value) => value.toFixed(2).replace("-0.00", "0.00");

export function short(text, length) {
  const letters = [...text];
  return letters.length > length ? letters.slice(0, length - 1).join("").trimEnd() + "…" : text;
}

/** Smallest and largest of the values beside the diagonal. */
export function range(matrix) {
  const beside = matrix.flatMap((row, i) => row.filter((_, j) => j !== i));
  return beside.length ? [Math.min(...beside), Math.max(...beside)] : [0, 1];
}

/** A table whose cells are coloured: the heat map, and what a screen reader reads. */
export function drawMatrix(place, legend, texts, matrix) {
  const scale = range(matrix);
  const dense = texts.length > MORE_THAN;
  const head = element("tr", {}, element("td"));
  texts.forEach((text, i) => {
    const th = element("th", { scope: "col", title: text }, String(i + 1));
    th.append(element("span", { class: "hidden" }, ` ${text}`));
    head.append(th);
  });
  const body = element("tbody");
  matrix.forEach((row, i) => {
    const label = element("span", { class: "text", dir: "auto" }, texts[i]);
    const th = element("th", { scope: "row", title: texts[i] });
    th.append(element("span", { class: "number" }, String(i + 1)), label);
    const tr = element("tr", {}, th);
    row.forEach((value, j) => {
      const own = i === j;
      const td = element("td", {
        class: own ? "own" : `h${step(value, scale)}`,
        title: `${two(value)}\n${i + 1}  ${texts[i]}\n${j + 1}  ${texts[j]}`,
      });
      td.append(element("span", dense ? { class: "hidden" } : {}, two(value)));
      tr.append(td);
    });
    body.append(tr);
  });
  const caption = element("caption", { class: "hidden" }, "Cosine of each two texts");
  const kind = dense ? "heat dense" : "heat";
  place.replaceChildren(element("table", { class: kind }, caption, element("thead", {}, head), body));
  drawLegend(legend, scale);
}

function drawLegend(place, [low, high]) {
  const boxes = Array.from({ length: STEPS + 1 }, (_, i) => element("i", { class: `h${i}` }));
  place.replaceChildren(two(low), element("span", {}, ...boxes), two(high));
}

/** Points with labels beside them, where there is room, and a line from each to its nearest. */
export function drawMap(place, texts, points, matrix) {
  const width = Math.max(280, place.clientWidth);
  const height = Math.round(Math.min(420, Math.max(300, width * 0.6)));
  const at = onto(points, width, height);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `A map of ${texts.length} texts. The table after it has the same.`,
  });
  matrix.forEach((row, i) => {
    const j = nearest(row, i);
    if (j < 0) return;
    const [[x1, y1], [x2, y2]] = [at[i], at[j]];
    picture.append(svg("line", { x1, y1, x2, y2, class: "near" }));
  });
  const taken = at.map(([x, y]) => ({ x: x - 12, y: y - 12, w: 24, h: 24 }));
  const labels = texts.map((text, i) => label(text, at[i], taken, width, height));
  at.forEach(([x, y], i) => {
    const group = svg("g", {}, svg("title", {}, `${i + 1}  ${texts[i]}`));
    group.append(svg("circle", { cx: x, cy: y, r: 11 }));
    group.append(svg("text", { x, y: y + 4, class: "number" }, String(i + 1)));
    if (labels[i]) group.append(labels[i]);
    picture.append(group);
  });
  place.replaceChildren(picture, mapTable(texts, points, matrix));
}

function nearest(row, own) {
  let best = -1;
  row.forEach((value, j) => {
    if (j !== own && (best < 0 || value > row[best])) best = j;
  });
  return best;
}

/** The same scale on both axes, so that distances can be compared. */
function onto(points, width, height) {
  const spread = (k) => {
    const values = points.map((p) => p[k]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return { middle: (low + high) / 2, size: high - low };
  };
  const [x, y] = [spread(0), spread(1)];
  const margin = 34;
  const unit = Math.min(
    (width - 2 * margin) / (x.size || 1e-9),
    (height - 2 * margin) / (y.size || 1e-9),
    1e6,
  );
  return points.map((p) => [
    round(width / 2 + (p[0] - x.middle) * unit),
    round(height / 2 - (p[1] - y.middle) * unit),
  ]);
}

const round = (value) => Math.round(value * 10) / 10;

/** On the first side that is free; nothing where none is: the number is there in any case. */
function label(text, [x, y], taken, width, height) {
  const shown = short(text, width < 480 ? 18 : 30);
  const w = textWidth(shown) + 4;
  const sides = [
    { x: x + 15, y: y - 8, anchor: "start" },
    { x: x - 15 - w, y: y - 8, anchor: "end" },
    { x: x - w / 2, y: y + 14, anchor: "middle" },
    { x: x - w / 2, y: y - 30, anchor: "middle" },
  ].map((side) => ({ ...side, w, h: 16 }));
  const side = sides.find(
    (s) =>
      s.x >= 2 && s.x + s.w <= width - 2 && s.y >= 2 && s.y + s.h <= height - 2 &&
      !taken.some((t) => s.x < t.x + t.w && t.x < s.x + s.w && s.y < t.y + t.h && t.y < s.y + s.h),
  );
  if (!side) return null;
  taken.push(side);
  const anchors = { start: side.x, end: side.x + w, middle: x };
  return svg(
    "text",
    { x: round(anchors[side.anchor]), y: round(side.y + 12), "text-anchor": side.anchor },
    shown,
  );
}

const ruler = document.createElement("canvas").getContext("2d");

function textWidth(text) {
  ruler.font = `13px ${getComputedStyle(document.body).fontFamily}`;
  return ruler.measureText(text).width;
}

function mapTable(texts, points, matrix) {
  const head = element("tr");
  for (const name of ["Text", "Across", "Up", "Most like"]) {
    head.append(element("th", { scope: "col" }, name));
  }
  const rows = texts.map((text, i) => {
    const j = nearest(matrix[i], i);
    const cells = [two(points[i][0]), two(points[i][1]), j < 0 ? "" : texts[j]];
    const th = element("th", { scope: "row" }, text);
    return element("tr", {}, th, ...cells.map((cell) => element("td", {}, cell)));
  });
  const caption = element("caption", {}, "The map's points");
  const thead = element("thead", {}, head);
  const table = element("table", {}, caption, thead, element("tbody", {}, ...rows));
  return element("div", { class: "hidden" }, table);
}

/** Passages from the best to the last, each with its score as a bar. */
export function drawRanks(place, passages, scores) {
  const order = scores.map((_, i) => i).sort((i, j) => scores[j] - scores[i]);
  place.replaceChildren(
    ...order.map((i) => {
      const bar = element("span", { class: "bar", "aria-hidden": "true" });
      bar.style.setProperty("--share", String(Math.max(0, Math.min(1, scores[i]))));
      const score = element("span", { class: "score" }, two(scores[i]));
      return element("li", {}, element("p", { dir: "auto" }, passages[i]), bar, score);
    }),
  );
}

/** A document's chunks one after the other, darker the better they answer; the best has a frame. */
export function drawFlow(place, chunks, scores, scale) {
  const best = scores.indexOf(Math.max(...scores));
  const parts = chunks.flatMap((chunk, i) => {
    const name = `chunk h${step(scores[i], scale)}${i === best ? " best" : ""}`;
    const mark = element("mark", { class: name, dir: "auto" }, chunk);
    const score = i === best ? `${two(scores[i])}, best` : two(scores[i]);
    mark.append(element("span", { class: "score" }, score));
    return [mark, " "];
  });
  place.replaceChildren(...parts);
}

/** A row for each chunk; `late` is null where the server has no late chunking. */
export function drawScores(place, chunks, plain, late) {
  const names = ["Chunk", "By itself", ...(late ? ["Late chunking", "Change"] : [])];
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
  const rows = chunks.map((chunk, i) => {
    const cells = [two(plain[i])];
    if (late) {
      const change = late[i] - plain[i];
      cells.push(two(late[i]), `${change > 0 ? "+" : ""}${two(change)}`.replace("-", "−"));
    }
    const th = element("th", { scope: "row", dir: "auto" }, chunk);
    return element("tr", {}, th, ...cells.map((cell) => element("td", {}, cell)));
  });
  const body = element("tbody", {}, ...rows);
  place.replaceChildren(element("table", { class: "plain" }, element("thead", {}, head), body));
}
