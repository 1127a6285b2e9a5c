// Requests to the server, and the same ones as programs that one can copy.

const BASE = new URL(".", document.baseURI).href;

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The server's JSON, and how long it took: in the server, and in all, in milliseconds. */
export async function ask(path, { body, key, signal } = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const start = performance.now();
  let response;
  try {
    response = await fetch(BASE + path, {
      method: body ? "POST" : "GET",
      headers: body ? { ...headers, "Content-Type": "application/json" } : headers,
      body: body && JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server does not answer. Is it still running?");
  }
  const text = await response.text();
  const all = performance.now() - start;
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    answer = {};
  }
  if (!response.ok) throw new ServerError(response.status, told(response, answer));
  return { answer, all, server: Number(response.headers.get("X-Adaptrt-Ms")) || null };
}

function told(response, answer) {
  const message = answer.error?.message ?? answer.detail ?? response.statusText;
  const wait = response.headers.get("Retry-After");
  return wait ? `${message} (try again in ${wait} s)` : String(message);
}

/** `requests` is a list of {name, body}; `key`, whether the server wants one. */
export function asCurl(requests, key) {
  return requests
    .map(({ body }) => {
      const lines = [
        `curl -s ${BASE}v1/embeddings`,
        `  -H 'Content-Type: application/json'`,
        ...(key ? ["  -H 'Authorization: Bearer YOUR-KEY'"] : []),
        `  -d '${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`,
      ];
      return lines.join(" \\\n");
    })
    .join("\n\n");
}

export function asPython(requests, key) {
  const head = [
    "from openai import OpenAI  # pip install openai",
    "",
    `client = OpenAI(base_url="${BASE}v1", api_key="${key ? "YOUR-KEY" : "none"}")`,
  ];
  const calls = requests.map(({ name, body }) => {
    const { model, input, dimensions, ...extra } = body;
    return [
      `${name} = client.embeddings.create(`,
      `    model=${python(model)},`,
      `    input=${python(input, "    ")},`,
      ...(dimensions === undefined ? [] : [`    dimensions=${dimensions},`]),
      ...(Object.keys(extra).length ? [`    extra_body=${python(extra)},`] : []),
      ")",
    ].join("\n");
  });
  const last = requests.map(
    ({ name }) => `print(len(${name}.data), "vectors of", len(${name}.data[0].embedding), "numbers")`,
  );
  return [...head, ...calls, ...last].join("\n");
}

/** A JSON value as a Python literal; lists over several lines. */
function python(value, indent = "") {
  if (Array.isArray(value)) {
    const rows = value.map((item) => `${indent}    ${python(item)},\n`);
    return `[\n${rows.join("")}${indent}]`;
  }
  if (value && typeof value === "object") {
    const pairs = Object.entries(value).map(([k, v]) => `${python(k)}: ${python(v)}`);
    return `{${pairs.join(", ")}}`;
  }
  if (typeof value === "boolean") return value ? "True" : "False";
  return JSON.stringify(value);
}
