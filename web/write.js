// Write: a prompt becomes a text, of which each token can be looked at, and exchanged for another one to go on from there.

import { post } from "./api.js";
import { field, h, say, shown } from "./dom.js";
import "./knobs.js";
import { isSign, scale } from "./tokens.js";
import {
  A_FRAME, Frames, Writing, WritingPage, copyButton, ending, errorBox, keysHint, loadModels, mended, noModels, notesBox, runButton, seedAt, spell,
} from "./text.js";

/** At most so many texts at once. */
const MOST_TEXTS = 8;

/**
 * What was written since the page was opened, oldest first; it stays when another page is looked at. An entry has its
 * `prompt`, its `model`, its settings (`query`), its `writing`, and, if it goes on from another one, `from`. `ids` are the
 * tokens that the model got instead of the prompt's text: the prompt's own, `givenCount` of them, and those that were kept.
 */
const entries = [];

/** What was on the page when it was looked at last: its address (`query`), whether seeds were `fresh`, and the `entry`. */
let left = null;

class Write extends WritingPage {
  #model = document.createElement("kinglet-model");
  #knobs = document.createElement("kinglet-knobs");
  #prompt = h("textarea", { rows: 4, spellcheck: "false", placeholder: "How the text begins. It may be empty." });
  #many = h("input", { type: "number", min: 1, max: MOST_TEXTS, step: 1, value: "1" });
  #run = runButton("Write", () => this.#write(), () => this.stop());
  #link = copyButton("Copy link", () => this.#address());
  #pace = h("span", { className: "faint small push" });
  #trouble = h("div", { className: "stack" });
  #back = h("button", { type: "button", title: "Alt+Left", "aria-label": "The text before" }, "←");
  #forth = h("button", { type: "button", title: "Alt+Right", "aria-label": "The text after" }, "→");
  #branches = h("select", { "aria-label": "What was written" });
  #history = h("div", { className: "row history", hidden: true }, h("span", { className: "buttons" }, this.#back, this.#forth), this.#branches);
  #texts = h("div", { className: "split texts" });
  #about = h("div", { className: "stack about" });
  #page = h("div", { className: "page beside" });
  frames = new Frames(() => this.#draw());
  #views = [];
  #entry = null;
  #running = null;
  #mended = [];
  onKey = (event) => this.#key(event);

  constructor() {
    super();
    this.#model.addEventListener("change", () => this.#changed());
    for (const element of [this.#knobs, this.#prompt, this.#many]) element.addEventListener("change", () => this.#changed());
    this.#prompt.addEventListener("input", () => this.#changed());
    this.#many.addEventListener("change", () => (this.#many.value = this.#n));
    this.#back.addEventListener("click", () => this.#step(-1));
    this.#forth.addEventListener("click", () => this.#step(1));
    this.#branches.addEventListener("change", () => entries[this.#branches.value] && this.#show(entries[this.#branches.value]));
  }

  connectedCallback() {
    const hint = keysHint(["Ctrl", "Enter"], "writes");
    const actions = h("div", { className: "row" }, this.#run, hint, this.#link);
    const left = [this.#model, field("Prompt", this.#prompt), actions, this.#trouble, this.#history, this.#texts, this.#about];
    this.lay(this.#page, left, [this.#knobs, field("Texts at once", this.#many)], "Settings");
    this.#link.classList.add("push");
    this.#open();
  }

  /** Fills everything in as the address says, or as it was; nothing is written before somebody asks for it. */
  async #open() {
    const asked = this.query.toString();
    const isBack = left && (!asked || asked === left.query);
    const query = isBack ? new URLSearchParams(left.query) : this.query;
    const entry = isBack ? left.entry : entries.findLast((entry) => entry.query === asked);
    if (isBack ? left.fresh : entry) query.set("fresh", "");
    const link = linked(query);
    this.#fill(query);
    this.#prompt.value = query.get("prompt") ?? "";
    this.#show(entry ?? (link instanceof Error ? null : link), true);
    const isThere = await this.#run.waitFor(loadModels([this.#model], this.#trouble, noModels()));
    if (link instanceof Error) this.#trouble.append(errorBox(link));
    this.#about.hidden = !isThere;
    if (isThere && this.#entry?.writing === null && this.#goesOn()) this.#preview(this.#entry);
  }

  #fill(query) {
    this.#model.wanted = query.get("model");
    this.#knobs.read(query);
    this.#many.value = query.get("n") ?? "1";
    this.#many.value = this.#n;
  }

  /** The text of a link is shown before it is gone on with; its tokens come with what follows. */
  async #preview(entry) {
    try {
      const { prompt } = await post("/detokenize", { model: this.#model.model?.id, tokens: entry.ids });
      entry.preview = [{ text: prompt }];
    } catch (error) {
      this.#trouble.append(errorBox(error));
    }
    if (this.#entry === entry && !entry.writing) this.#render();
  }

  get #n() {
    return Math.min(MOST_TEXTS, Math.max(1, Math.round(this.#many.valueAsNumber) || 1));
  }

  /** Begins anew; or goes on where a link says. */
  #write() {
    const [whole, notes] = mended(this.#prompt.value);
    if (notes.length) this.#prompt.value = whole;
    this.#mended = notes;
    const { prompt, ids, givenCount, writing } = this.#goesOn() ?? {};
    if (ids && !writing) this.#begin({ prompt, ids, givenCount });
    else this.#begin({ prompt: this.#prompt.value });
  }

  /** The entry that is shown, if it is of this prompt and this model, and of tokens that were kept. */
  #goesOn() {
    const entry = this.#entry;
    const isSame = entry?.ids && entry.prompt === this.#prompt.value && (!entry.model || entry.model === this.#model.model?.id);
    return isSame ? entry : null;
  }

  /** Goes on from a text's first tokens; `token` comes after them, if there is one. */
  async #branch(which, index, token) {
    const entry = this.#entry;
    const { prompt, model, writing } = entry;
    const text = writing.texts[which];
    this.#mended = [];
    let before = text.tokens.slice(0, index);
    if (before.at(-1)?.isCut) before = await this.#whole(model, before);
    if (!before || !this.isConnected) return;
    const from = { entry, at: (writing.given?.length ?? 0) + index + 1, was: text.tokens[index], token };
    const kept = token ? [...before, { ...text.tokens[index], ...token, rank: rankOf(text.tokens[index], token), chosen: true }] : before;
    const next = { prompt, kept, from, given: writing.given };
    if (model !== this.#model.model?.id) {
      this.#model.wanted = model;
      // A token is one of its own model, and means something else to another.
      this.#model.load().then(() => this.#begin(next), (error) => this.#trouble.replaceChildren(errorBox(error)));
    } else this.#begin(next);
  }

  /** Tokens, the last of which is only a part of one: what is left of that is one or several others. */
  async #whole(model, tokens) {
    const cut = tokens.at(-1);
    try {
      const { tokens: ids } = await post("/tokenize", { model, prompt: cut.text });
      const { prompt } = await post("/detokenize", { model, tokens: ids });
      if (prompt !== cut.text) throw new Error("The text cannot be gone on with behind a part of a token.");
      const each = ids.length === 1 ? [{ prompt }] : await Promise.all(ids.map((id) => post("/detokenize", { model, tokens: [id] })));
      return [...tokens.slice(0, -1), ...ids.map((id, i) => ({ id, text: each[i].prompt, bytes: null }))];
    } catch (error) {
      this.#trouble.replaceChildren(errorBox(error));
      return null;
    }
  }

  async #begin({ prompt, ids, givenCount, kept = [], given = null, from }) {
    this.stop();
    const seed = this.#knobs.nextSeed();
    const model = this.#model.model.id;
    const before = this.#entry;
    const writing = new Writing(this.#n, kept);
    writing.given = given;
    writing.notes.push(...this.#mended);
    const isKnown = given && kept.every(({ id }) => id != null);
    if (kept.length && isKnown) [ids, givenCount] = [[...given, ...kept].map(({ id }) => id), given.length];
    const entry = { prompt, model, writing, ids, givenCount, from };
    entry.query = this.#params(entry).toString();
    entries.push(entry);
    this.#running = entry;
    this.#show(entry);
    this.#trouble.replaceChildren();
    say("Writing");
    const place = ids ? ids.length - givenCount : kept.length;
    const body = { model, prompt: ids ?? prompt + spell(kept), n: this.#n, seed: seedAt(seed, place), ...this.#knobs.body() };
    await writing.run("/v1/completions", body, () => {
      if (ids && !given && !writing.kept.length) split(entry);
      this.frames.ask();
    });
    if (this.#running === entry) this.#running = null;
    // A refusal, of which no text has come, is no part of what was written: what was there before it stays.
    const isRefused = writing.error && !writing.written;
    if (isRefused) entries.splice(entries.indexOf(entry), 1);
    if (isRefused && left?.entry === entry) left.entry = before;
    if (!this.isConnected) return;
    say(writing.error ? writing.error.message : `${writing.written} tokens written`);
    if (isRefused) this.#trouble.replaceChildren(errorBox(writing.error), notesBox(this.#mended) ?? "");
    if (isRefused && this.#entry === entry) this.#show(before, true);
    this.frames.ask();
    this.#listBranches();
  }

  stop() {
    this.#running?.writing.stop();
    this.#running = null;
  }

  /** Shows an entry: its texts, and, unless they stay, the settings that wrote it. A prompt that was changed since stays too. */
  #show(entry, settingsStay = false) {
    const isUntouched = !this.#entry || this.#prompt.value === this.#entry.prompt;
    this.#entry = entry ?? null;
    if (entry && isUntouched && !settingsStay) this.#prompt.value = entry.prompt;
    if (entry?.writing && this.#running !== entry && !settingsStay) {
      const query = new URLSearchParams(entry.query);
      if (this.#knobs.fresh) query.set("fresh", "");
      this.#fill(query);
      this.#choose(entry.model);
    }
    this.#render();
    this.#listBranches();
    this.#changed();
  }

  #choose(model) {
    const chosen = this.#model.model;
    this.#model.wanted = chosen?.id === model ? null : model;
    if (chosen && chosen.id !== model) this.#model.load().catch((error) => this.#trouble.replaceChildren(errorBox(error)));
  }

  #render() {
    const entry = this.#entry;
    const hadFocus = this.#texts.contains(document.activeElement);
    const texts = entry?.writing?.texts ?? (entry?.preview ? [{ tokens: [], isPreview: true }] : []);
    this.#views = texts.map((text, i) => this.#view(entry, text, i, texts.length));
    this.#texts.replaceChildren(...this.#views.map(({ section }) => section));
    this.#draw();
    if (hadFocus) this.#views[0]?.tokens.focus();
  }

  #view(entry, text, i, many) {
    const tokens = document.createElement("kinglet-tokens");
    tokens.label = many > 1 ? `Text ${i + 1}` : "Text";
    tokens.canChoose = true;
    tokens.window = this.#windowOf(entry);
    tokens.from = entry.writing?.kept.length ?? 0;
    tokens.addEventListener("choose", ({ detail }) => this.#branch(i, detail.index, detail.token));
    const state = h("span", { className: "faint small" });
    const goOn = h("button", { type: "button", className: "quiet push", onclick: () => this.#branch(i, text.tokens.length) }, "Go on");
    const copy = copyButton("Copy", () => entry.prompt + spell(text.tokens.filter((token) => !isSign(token))));
    const foot = text.isPreview ? null : h("div", { className: "row foot" }, state, goOn, copy);
    const section = h("section", { "aria-label": tokens.label ?? null }, tokens, foot);
    if (many > 1) {
      section.classList.add("card");
      goOn.setAttribute("aria-label", `Go on with text ${i + 1}`);
      copy.setAttribute("aria-label", `Copy text ${i + 1}`);
    }
    return { section, tokens, state, goOn, text };
  }

  #windowOf(entry) {
    const model = this.#model.models.find(({ id }) => id === entry?.model) ?? this.#model.model;
    return model?.kinglet?.block_size ?? Infinity;
  }

  /** Puts on the page what has come since it was last drawn. */
  #draw() {
    const { writing, preview, prompt } = this.#entry ?? {};
    const given = writing?.given ?? preview ?? (prompt ? [{ text: prompt }] : []);
    let isLong = false;
    let room = A_FRAME;
    for (const { tokens, state, goOn, text } of this.#views) {
      // Pieces of a server that tells no tokens cannot be counted.
      if (writing && !writing.isExact) tokens.window = Infinity;
      const isOther = tokens.shownOf !== given || tokens.tokens.length > text.tokens.length;
      if (isOther) tokens.reset(given, text.tokens);
      else {
        const fresh = text.tokens.slice(tokens.tokens.length, tokens.tokens.length + room);
        room -= fresh.length;
        if (fresh.length) tokens.extend(fresh);
        if (tokens.tokens.length < text.tokens.length) this.frames.ask();
      }
      tokens.shownOf = given;
      state.textContent = ending(text);
      goOn.disabled = !text.reason;
      isLong ||= given.length + text.tokens.length > tokens.window;
    }
    this.#drawAbout(isLong);
    this.#run.show(!!this.#running);
  }

  #drawAbout(isLong) {
    const { writing } = this.#entry ?? {};
    const [view] = this.#views;
    this.#pace.textContent = writing?.pace ?? "";
    const isKnown = writing?.texts.some(({ tokens }) => tokens.some(({ logprob }) => logprob != null));
    const key = [!!view, isKnown, isLong && view.tokens.window, writing?.error?.message, writing?.notes.length].join();
    if (this.#about.dataset.key === key && this.#about.firstChild) return;
    this.#about.dataset.key = key;
    this.#about.replaceChildren(...[
      writing?.error && errorBox(writing.error),
      !view && this.#hint(),
      this.#entry?.preview && !writing && h("p", { className: "hint" }, "Write goes on from here."),
      h("div", { className: "row" }, isKnown ? scale() : "", this.#pace),
      isLong && h("p", { className: "hint small" }, aboutWindow(view.tokens.window)),
      writing && notesBox(writing.notes),
    ].filter(Boolean));
  }

  #hint() {
    return h("div", { className: "empty" },
      h("p", null, "The text appears here. Each of its tokens is tinted by how surprising it was to the model."),
      h("p", null, "Point at one, or walk with the arrow keys, to see what else might have come; choose that, and the text goes on from there."));
  }

  #listBranches() {
    const at = entries.indexOf(this.#entry);
    this.#history.hidden = entries.length < (at < 0 ? 1 : 2);
    const other = at < 0 ? [h("option", { value: at }, "Nothing written yet")] : [];
    this.#branches.replaceChildren(...entries.map((entry, i) => h("option", { value: i }, named(entry, i))), ...other);
    this.#branches.value = String(at);
    this.#back.disabled = at === 0;
    this.#forth.disabled = at < 0 || at === entries.length - 1;
  }

  /** Goes back or forth. Says whether there was anything. */
  #step(by) {
    const at = entries.indexOf(this.#entry);
    // What is not written yet stands behind all that was.
    const to = entries[(at < 0 ? entries.length : at) + by];
    if (!to) return false;
    const focused = document.activeElement;
    this.#show(to);
    say(named(to, entries.indexOf(to)));
    // A button that is no more than a sign of the end keeps no focus.
    if (focused?.disabled) (by < 0 ? this.#forth : this.#back).focus();
    return true;
  }

  #key(event) {
    const isText = event.target.matches("input, textarea, select");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.#run.press();
    } else if (event.key === "Escape" && this.#running) {
      this.stop();
    } else if (event.altKey && !isText && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
      // Where there is nothing to go back to, the browser goes back.
      if (this.#step(event.key === "ArrowLeft" ? -1 : 1)) event.preventDefault();
    }
  }

  /** The address is always a link to what is on the page: safe to copy, to reload and to keep. */
  #changed() {
    this.saveSoon(() => this.#address());
    left = { query: this.#params(this.#goesOn()).toString(), fresh: this.#knobs.fresh, entry: this.#entry };
    for (const { tokens } of this.#views) tokens.window = this.#windowOf(this.#entry);
  }

  #address() {
    return new URL(`#write?${this.#params(this.#goesOn())}`, location.href).href;
  }

  #params(entry) {
    const params = new URLSearchParams();
    const model = this.#model.model?.id ?? this.#model.wanted;
    if (model) params.set("model", model);
    params.set("prompt", entry?.prompt ?? this.#prompt.value);
    this.#knobs.write(params);
    if (this.#n > 1) params.set("n", this.#n);
    if (entry?.ids) {
      params.set("given", entry.givenCount);
      params.set("ids", entry.ids.join("."));
    }
    return params;
  }
}

function aboutWindow(size) {
  return `Underlined: the last ${size} tokens, which the model looks at directly as it goes on. Point at a token for those it looked at there.`;
}

/** What a link goes on from; null if it begins with its prompt; an error if it is not whole. */
function linked(query) {
  if (!query.get("ids")) return null;
  const given = query.get("given") ?? "0";
  const ids = query.get("ids").split(".").map(Number);
  const isWhole = /^\d+(\.\d+)*$/.test(query.get("ids")) && /^\d+$/.test(given) && +given <= ids.length;
  if (!isWhole) return new Error("This link goes on from tokens that it does not tell rightly (ids, given). It begins with its prompt instead.");
  const givenCount = +given;
  return { prompt: query.get("prompt") ?? "", model: query.get("model"), ids, givenCount, writing: null, preview: null };
}

/** Tokens of a link are told as one prompt: here they become the prompt's own and those that were kept. */
function split(entry) {
  const { writing, givenCount } = entry;
  if (!writing.given) return;
  writing.kept = writing.given.slice(givenCount);
  writing.given = writing.given.slice(0, givenCount);
  for (const text of writing.texts) text.tokens.unshift(...writing.kept);
}

function rankOf(token, other) {
  const at = token.top?.findIndex(({ id }) => id === other.id) ?? -1;
  return at < 0 ? undefined : at + 1;
}

/** An entry in few words: how it begins, or where it goes on from another one. */
function named(entry, i) {
  const { from, prompt, writing } = entry;
  if (!from) {
    const begin = prompt.trim() || writing?.texts[0].text.trim() || "";
    return `${i + 1}: ${shown(begin.slice(0, 40)).replaceAll("␣", " ")}`;
  }
  const source = entries.indexOf(from.entry) + 1;
  const instead = from.token && `“${shown(from.token.text)}” instead of “${shown(from.was.text)}”`;
  return `${i + 1}: ${instead ? `from ${source} at token ${from.at}, ${instead}` : `${source} goes on`}`;
}

customElements.define("kinglet-write", Write);
