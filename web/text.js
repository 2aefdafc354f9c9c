// Texts while they are written: what has come, how it ended, and what is said of it. For the pages that write.

import { keepToken, stream } from "./api.js";
import { field, h, number, say } from "./dom.js";
import { isSign } from "./tokens.js";

/** So many alternatives of each token are asked for. */
const ALTERNATIVES = 8;

/** So many new tokens are put on the page in a frame, that it stays smooth; what is left comes with the next one. */
export const A_FRAME = 400;

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
    this.stops = body.stop ?? [];
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
      if (choice.finish_reason === "stop" && this.isExact) this.#cut(text);
    }
  }

  /** Takes away the tokens of a text before which to stop: the last one that is left may be a part of one (`isCut`). */
  #cut(text) {
    const fresh = text.tokens.slice(this.kept.length);
    const rest = spell(fresh).slice(text.text.length);
    text.isMet = this.stops.some((stop) => rest.startsWith(stop));
    if (text.isMet) text.tokens = [...this.kept, ...shortened(fresh, text.text.length)];
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

/** Why a text ended. */
export function ending({ reason, isMet }) {
  return isMet ? "met a stop text" : REASONS[reason] ?? reason ?? "";
}

/** The first tokens, as far as so many units of JavaScript's strings go. */
function shortened(tokens, length) {
  const utf8 = new TextDecoder();
  const left = [];
  let end = 0;
  for (const token of tokens) {
    if (end >= length) break;
    const { text, bytes } = token;
    const piece = bytes ? utf8.decode(new Uint8Array(bytes), { stream: true }) : utf8.decode() + text;
    const over = piece.slice(Math.max(0, length - end));
    end += piece.length;
    if (!over) left.push(token);
    else {
      const own = bytes && bytes.slice(0, -new TextEncoder().encode(over).length);
      left.push({ ...token, text: text.slice(0, -over.length), bytes: own, isCut: true });
    }
  }
  return left;
}

/**
 * The seed of a text that goes on behind so many tokens. Draws are keyed by the seed and by how many were made before: with
 * the same seed each part would be drawn as the one before it was, and the text would go round in circles.
 */
export function seedAt(seed, place) {
  if (!place) return seed;
  let mixed = (seed % 2 ** 32) ^ Math.imul(Math.floor(seed / 2 ** 32) + 1, 0x9e3779b1) ^ Math.imul(place, 0x85ebca6b);
  for (const by of [0x7feb352d, 0x846ca68b]) mixed = Math.imul(mixed ^ (mixed >>> 16), by);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}

/** The mean surprise of tokens in bits a token and bits a character; null where nothing was predicted. */
export function meanSurprise(tokens) {
  let [nats, count, chars] = [0, 0, 0];
  for (const token of tokens) {
    const { logprob, text, isCut } = token;
    // The probability of a token is that of the whole of it.
    if (logprob == null || isCut) continue;
    nats -= logprob;
    count += 1;
    if (!isSign(token)) chars += [...text].length;
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

/**
 * A page that writes texts. It has `frames`, in which it draws, `onKey`, which hears all keys, and `stop()`, which ends what is
 * being written.
 */
export class WritingPage extends HTMLElement {
  saving;

  /** Puts what is looked at beside what is set, and begins to hear keys. */
  lay(page, left, settings, label) {
    page.append(h("div", { className: "stack" }, ...left), h("aside", { className: "stack", "aria-label": label }, ...settings));
    this.append(page);
    document.addEventListener("keydown", this.onKey);
  }

  /** Puts what is set into the address, soon: browsers refuse many changes within a short time. */
  saveSoon(address) {
    clearTimeout(this.saving);
    this.saving = setTimeout(() => history.replaceState(null, "", address()), 200);
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.onKey);
    this.stop();
    this.frames.cancel();
    clearTimeout(this.saving);
  }
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

/**
 * The button that begins, and stops what it has begun: one button, so that the keyboard stays where it is. `waitFor(ready)`
 * disables it until the promise `ready` says whether there is what it needs; a key that comes earlier is not lost.
 */
export function runButton(name, begin, stop) {
  const button = h("button", { type: "button", className: "main run" }, name);
  let [isRunning, isWaiting, isWished] = [false, false, false];
  /** What the page's keys do: begins, or begins anew. What comes while the button waits is done once it need not wait. */
  button.press = () => {
    if (isWaiting) isWished = true;
    else if (!button.disabled) begin();
  };
  button.waitFor = async (ready) => {
    button.disabled = isWaiting = true;
    const isThere = await ready;
    isWaiting = false;
    button.disabled = !isThere;
    if (isThere && isWished && button.isConnected) begin();
    return isThere;
  };
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

/** An error where it arose; `again` tries once more what failed. One that the server's token would mend asks for it. */
export function errorBox(error, again) {
  const box = h("p", { className: "error", role: "alert" }, sentence(error.message));
  return error.status === 401 ? h("div", { className: "stack" }, box, tokenField(box, again)) : box;
}

function tokenField(box, again) {
  const input = h("input", { type: "text", autocomplete: "off", spellcheck: "false" });
  const use = () => {
    // The whole address will do.
    const token = input.value.trim().replace(/^.*#token=/, "");
    if (!token) return input.focus();
    keepToken(decoded(token));
    box.textContent = "The token is kept for this tab. Try once more.";
    again?.();
  };
  input.addEventListener("keydown", (event) => event.key === "Enter" && !event.ctrlKey && use());
  return h("div", { className: "row ends" }, field("Or paste the token here", input), h("button", { type: "button", onclick: use }, "Use it"));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Halves of characters (lone surrogates) can be in no request. Returns the text without them, and a note if there were any. */
export function mended(text) {
  const whole = text.toWellFormed?.() ?? text;
  const count = [...text].filter((char) => /^[\ud800-\udfff]$/.test(char)).length;
  if (whole === text) return [text, []];
  return [whole, [`${count === 1 ? "One character was" : `${number(count)} characters were`} replaced by �: only ${count === 1 ? "half of it was" : "halves of them were"} there.`]];
}

/** What the server says begins small, as it stands behind a name elsewhere. */
function sentence(text) {
  const [first = "", ...rest] = text;
  return first.toUpperCase() + rest.join("");
}

/** What the server notes, each once. */
export function notesBox(notes) {
  const each = [...new Set(notes)].map((note) => h("p", null, sentence(note)));
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
    return new Promise((resolve) => {
      const retry = () => resolve(loadModels(pickers, holder, nothing));
      again.addEventListener("click", retry);
      holder.replaceChildren(errorBox(error, retry), error.status === 401 ? "" : h("div", null, again));
    });
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
