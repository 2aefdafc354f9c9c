// Everything that is asked of the server. Nothing else is ever asked.

/** What the server refused, or why it could not be asked. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

const KEY = "kinglet-token";

/** The server speaks of a header, which is nothing that a person can give to a page. */
const WITHOUT_TOKEN = "Open the address that kinglet serve printed: it ends in #token=…";

/** Keeps the token that came behind the `#` of the address, for this tab alone. */
export function keepToken(token) {
  sessionStorage.setItem(KEY, token);
}

function headers(more) {
  const token = sessionStorage.getItem(KEY);
  return { ...(token && { Authorization: `Bearer ${token}` }), ...more };
}

async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(path, { ...options, cache: "no-store", credentials: "omit", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is kinglet serve still running?");
  }
  if (answer.ok) return answer;
  let about = {};
  try {
    about = (await answer.json()).error ?? {};
  } catch {
    // An answer that is not JSON says no more than its status.
  }
  const message = answer.status === 401 ? WITHOUT_TOKEN : about.message ?? `The server answered with status ${answer.status}.`;
  throw new ApiError(message, { status: answer.status, code: about.code, param: about.param });
}

/** What is at a path; `query` has its parameters, of which those that are null or undefined are left out. */
export async function get(path, query = {}, signal) {
  const pairs = Object.entries(query).filter(([, value]) => value != null);
  const behind = pairs.length ? `?${new URLSearchParams(pairs)}` : "";
  return (await asked(path + behind, { headers: headers(), signal })).json();
}

/** The answer to a question. */
export async function post(path, body, signal) {
  return (await posted(path, body, signal)).json();
}

function posted(path, body, signal) {
  const options = { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal };
  return asked(path, options);
}

/** The pieces of an answer as they come. */
export async function* stream(path, body, signal) {
  const answer = await posted(path, { ...body, stream: true }, signal);
  // A character may be split between two pieces, and so may a line.
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
        if (data === "[DONE]") return;
        if (!data) continue;
        const piece = JSON.parse(data);
        if (piece.error) throw new ApiError(piece.error.message, piece.error);
        yield piece;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ApiError("The text ended too early: the connection was lost.");
}

/** A path with names in it; a name may have slashes. */
export function path(strings, ...names) {
  return String.raw({ raw: strings }, ...names.map((name) => name.split("/").map(encodeURIComponent).join("/")));
}

let models;

/** The models that are served; what was asked within the last two seconds is not asked again. */
export function allModels() {
  if (!models || performance.now() - models.at > 2000) {
    models = { at: performance.now(), list: get("/v1/models").then((answer) => answer.data) };
    models.list.catch(() => (models = undefined));
  }
  return models.list;
}
