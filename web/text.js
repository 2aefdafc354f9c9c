// Texts while they are written: what has come, how it ended, and what is said of it. For the pages that write.

import { stream } from "./api.js";
import { h, number, say } from "./dom.js";

/** So many alternatives of each token are asked for. */
const ALTERNATIVES = 8;

/**
 * What one request writes: `texts`, each with `tokens` (those of `kept` first, which were there before), the `text` that is
 * new, and `reason`, why it ended. `given` has the prompt's tokens, once they are known. A server that tells no tokens still
 * tells the text: then `isExact` is false, and there are tokens without ids.
 */
export class Writing {
  #stop = new AbortController();
  given = null;
  notes = [];
  error = null;
  count = 0;
  seconds = 0;
  isRunning = false;
  isExact = true;

  constructor(n = 1, kept = []) {
    this.kept = kept;
    this.texts = Array.from({ length: n }, () => ({ tokens: [...kept], text: "", reason: null }));
  }

  /** Asks, and calls `came` whenever something has come, and at the end. Never rejects: what went wrong is in `error`. */
  async run(path, body, came) {
    this.isRunning = true;
    const begun = performance.now();
    const question = { ...body, details: ALTERNATIVES, stream_options: { include_usage: true } };
    try {
      for await (const piece of stream(path, question, this.#stop.signal)) {
        this.#take(piece);
        this.seconds = (performance.now() - begun) / 1000;
        came();
      }
    } catch (error) {
      if (!this.#stop.signal.aborted) this.error = error;
    }
    this.isRunning = false;
    for (const text of this.texts) text.reason ??= this.error ? "broken" : "stopped";
    came();
  }

  #take(piece) {
    this.given ??= piece.prompt_tokens ?? null;
    this.notes.push(...(piece.kinglet?.notes ?? []));
    if (piece.usage) this.count = piece.usage.completion_tokens;
    for (const choice of piece.choices ?? []) {
      const text = this.texts[choice.index];
      const words = choice.text ?? choice.delta?.content ?? "";
      text.text += words;
      if (choice.tokens) text.tokens.push(...choice.tokens);
      else if (words) {
        this.isExact = false;
        text.tokens.push({ text: words });
      }
      text.reason ??= choice.finish_reason ?? null;
    }
  }

  stop() {
    this.#stop.abort();
  }

  /** How many tokens are new. A server that tells none counts them at the end. */
  get written() {
    if (!this.isExact) return this.count;
    return this.texts.reduce((sum, { tokens }) => sum + tokens.length - this.kept.length, 0);
  }

  /** How much was written, and how fast. */
  get pace() {
    const { written, seconds } = this;
    if (!written || !seconds) return "";
    return `${number(written)} ${written === 1 ? "token" : "tokens"} · ${number(Math.round(written / seconds))} tokens/s`;
  }
}

const REASONS = {
  stop: "ended by itself",
  length: "reached its length",
  stopped: "stopped",
  broken: "broken off",
};

/** Why a text ended. The tokens of one that met a text before which to stop have that text. */
export function ending({ reason, tokens }, stops = []) {
  if (reason !== "stop" || !stops.length) return REASONS[reason] ?? reason ?? "";
  if (tokens.at(-1)?.id == null) return "ended";
  const all = spell(tokens);
  return stops.some((stop) => all.includes(stop)) ? "met a stop text" : REASONS.stop;
}

/** The mean surprise of tokens in bits a token and bits a character; null where nothing was predicted. */
export function meanSurprise(tokens) {
  let [nats, count, chars] = [0, 0, 0];
  for (const { logprob, text } of tokens) {
    if (logprob == null) continue;
    nats -= logprob;
    count += 1;
    chars += [...text].length;
  }
  const bits = nats / Math.LN2;
  return count ? { token: bits / count, char: chars ? bits / chars : null } : null;
}

/** The text that tokens spell. A token may be a part of a character. */
export function spell(tokens) {
  const utf8 = new TextDecoder();
  const piece = ({ text, bytes }) => (bytes ? utf8.decode(new Uint8Array(bytes), { stream: true }) : utf8.decode() + text);
  return tokens.map(piece).join("") + utf8.decode();
}

/** Draws at most once a frame, however often it is asked. */
export class Frames {
  #draw;
  #asked;

  constructor(draw) {
    this.#draw = draw;
  }

  ask() {
    this.#asked ??= requestAnimationFrame(() => {
      this.#asked = undefined;
      this.#draw();
    });
  }

  cancel() {
    cancelAnimationFrame(this.#asked);
    this.#asked = undefined;
  }
}

/** The button that begins, and stops what it has begun: one button, so that the keyboard stays where it is. */
export function runButton(name, begin, stop) {
  const button = h("button", { type: "button", className: "main run" }, name);
  let isRunning = false;
  button.addEventListener("click", () => (isRunning ? stop() : begin()));
  button.show = (running) => {
    isRunning = running;
    button.textContent = running ? "Stop" : name;
  };
  return button;
}

/** A button that copies what `what()` says, and tells that it did. */
export function copyButton(name, what) {
  const button = h("button", { type: "button", className: "quiet" }, name);
  let back;
  button.addEventListener("click", async () => {
    const done = (await copy(what())) ? "Copied" : "Could not copy";
    button.textContent = done;
    say(done);
    clearTimeout(back);
    back = setTimeout(() => (button.textContent = name), 1500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers give the clipboard to pages of this machine or of https alone; elsewhere the old way still works.
  }
  const area = h("textarea", { className: "unseen", readonly: true, value: text });
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

/** Which keys begin and stop, for those who have keys. */
export function keysHint(keys, what) {
  const names = keys.flatMap((key) => [h("kbd", null, key), " "]);
  return h("span", { className: "faint small keys" }, ...names, `${what}, `, h("kbd", null, "Esc"), " stops");
}

/** An error where it arose. */
export function errorBox(error) {
  return h("p", { className: "error", role: "alert" }, error.message);
}

/** What the server notes, each once. */
export function notesBox(notes) {
  const each = [...new Set(notes)].map((note) => h("p", null, note));
  return each.length ? h("div", { className: "notes" }, ...each) : null;
}

/**
 * Loads the models of pickers. What stands in the way is shown in `holder`, with what to do about it. Resolves to whether
 * there is a model to use.
 */
export async function loadModels(pickers, holder, nothing) {
  holder.replaceChildren();
  try {
    for (const picker of pickers) await picker.load();
  } catch (error) {
    const again = h("button", { type: "button" }, "Try again");
    const done = new Promise((resolve) => again.addEventListener("click", () => resolve(loadModels(pickers, holder, nothing))));
    holder.replaceChildren(errorBox(error), h("div", null, again));
    return done;
  }
  const missing = pickers.map((picker) => picker.missing).filter(Boolean);
  if (missing.length) holder.append(errorBox({ message: `Not served here: ${missing.join(", ")}. Another model is chosen.` }));
  const isThere = pickers.every((picker) => picker.model);
  if (!isThere) holder.replaceChildren(h("div", { className: "empty" }, ...nothing));
  return isThere;
}

/** What to do where there is no model. */
export function noModels() {
  const how = h("p", null, "Train one: ", h("code", null, "kinglet train"), ". It appears here with its first checkpoint.");
  return [h("p", null, "No model is served yet."), how];
}
