// Compare: two models, or one with two settings, write from the same prompt and the same seed, side by side.

import { field, h, newId, number, say, shown } from "./dom.js";
import "./knobs.js";
import { scale } from "./tokens.js";
import {
  A_FRAME, Frames, Writing, WritingPage, copyButton, ending, errorBox, keysHint, loadModels, meanSurprise, mended, noModels, notesBox, runButton,
} from "./text.js";

/** How the settings of a side are told apart in the address. */
const SIDES = ["a", "b"];

/** What was on the page when it was looked at last: its address (`query`), whether seeds were `fresh`, and what each side had. */
let left = null;

/** One of the two: its model, its settings if it has any of its own, and what it writes. */
class Side {
  #own = h("input", { type: "checkbox" });
  #about = h("p", { className: "faint small grow" });
  #foot = h("div", { className: "row foot" });
  #more = h("div", { className: "stack" });
  model = document.createElement("kinglet-model");
  knobs = document.createElement("kinglet-knobs");
  tokens = document.createElement("kinglet-tokens");
  writing = null;

  constructor(name, shared, changed) {
    this.name = name;
    this.knobs.seedless = true;
    this.#own.id = newId("own");
    const own = h("div", { className: "field inline" }, this.#own, h("label", { for: this.#own.id }, "Settings of its own"));
    this.tokens.label = `Text ${name.toUpperCase()}`;
    this.#own.addEventListener("change", () => {
      this.knobs.hidden = !this.#own.checked;
      // They begin as those of both.
      const both = new URLSearchParams();
      shared.write(both);
      this.knobs.read(both);
      changed();
    });
    this.model.addEventListener("change", changed);
    this.knobs.addEventListener("change", changed);
    this.section = h("section", { className: "card", "aria-label": `Side ${name.toUpperCase()}` },
      h("div", { className: "stack" }, this.model, own, this.knobs, this.#more), this.tokens, this.#foot);
    this.#foot.append(this.#about, copyButton("Copy", () => this.prompt + this.writing.texts[0].text));
    this.#foot.hidden = true;
  }

  get text() {
    return this.writing?.texts[0];
  }

  get hasOwn() {
    return this.#own.checked;
  }

  /** Shows what was written before another page was looked at. */
  restore({ writing, prompt }) {
    [this.writing, this.prompt] = [writing, prompt];
    if (writing) this.tokens.reset(prompt ? [{ text: prompt }] : []);
  }

  /** What the API gets, where the settings of both are these. */
  body(shared) {
    return (this.#own.checked ? this.knobs : shared).body();
  }

  read(query) {
    this.model.wanted = query.get(this.name);
    this.#own.checked = query.has(`${this.name}.own`);
    this.knobs.hidden = !this.#own.checked;
    const own = [...query].filter(([key]) => key.startsWith(`${this.name}.`)).map(([key, value]) => [key.slice(2), value]);
    this.knobs.read(new URLSearchParams(own));
  }

  write(params) {
    const model = this.model.model?.id ?? this.model.wanted;
    if (model) params.set(this.name, model);
    if (!this.#own.checked) return;
    params.set(`${this.name}.own`, "");
    const own = new URLSearchParams();
    this.knobs.write(own);
    for (const [key, value] of own) params.append(`${this.name}.${key}`, value);
  }

  async begin(prompt, notes, seed, shared, came) {
    const writing = new Writing();
    writing.notes.push(...notes);
    this.writing = writing;
    this.prompt = prompt;
    this.tokens.reset(prompt ? [{ text: prompt }] : []);
    this.shownOf = null;
    await writing.run("/v1/completions", { model: this.model.model.id, prompt, seed, ...this.body(shared) }, came);
  }

  stop() {
    this.writing?.stop();
  }

  /** Puts on the page what has come, as much as a frame takes. Says whether that is all. */
  draw() {
    const { writing, text } = this;
    if (!writing) return true;
    // The prompt's own tokens come with the first piece.
    if (writing.given && this.shownOf !== writing.given) {
      this.tokens.reset(writing.given);
      this.shownOf = writing.given;
    }
    if (this.tokens.tokens.length > text.tokens.length) this.tokens.reset(this.tokens.given, text.tokens);
    const { length } = this.tokens.tokens;
    if (length < text.tokens.length) this.tokens.extend(text.tokens.slice(length, length + A_FRAME / 2));
    const mean = meanSurprise(text.tokens);
    const aChar = mean?.char == null ? "" : `, ${number(mean.char, 3)} a character`;
    const surprise = mean && `mean surprise ${number(mean.token, 3)} bits a token${aChar}`;
    this.#about.textContent = [ending(text), writing.pace, surprise].filter(Boolean).join(" · ");
    this.#foot.hidden = false;
    if (!writing.isRunning && this.endedOf !== writing) {
      this.endedOf = writing;
      this.#more.replaceChildren(...[writing.error && errorBox(writing.error), notesBox(writing.notes)].filter(Boolean));
    }
    return this.tokens.tokens.length >= text.tokens.length;
  }

  clear() {
    this.endedOf = null;
    this.#more.replaceChildren();
  }
}

class Compare extends WritingPage {
  #knobs = document.createElement("kinglet-knobs");
  #sides = SIDES.map((name) => new Side(name, this.#knobs, () => this.#changed()));
  #prompt = h("textarea", { rows: 3, spellcheck: "false", placeholder: "How both texts begin. It may be empty." });
  #run = runButton("Write both", () => this.#write(), () => this.stop());
  #link = copyButton("Copy link", () => this.#address());
  #trouble = h("div", { className: "stack" });
  #parting = h("p", { className: "parting" });
  #scale = h("div", { hidden: true }, scale());
  #columns = h("div", { className: "split sides" }, ...this.#sides.map(({ section }) => section));
  frames = new Frames(() => this.#draw());
  #isRunning = false;
  #same = 0;
  #isParted = false;
  #partsAt = [-1, -1];
  onKey = (event) => this.#key(event);

  constructor() {
    super();
    this.#knobs.addEventListener("change", () => this.#changed());
    this.#prompt.addEventListener("input", () => this.#changed());
  }

  connectedCallback() {
    const hint = keysHint(["Ctrl", "Enter"], "writes");
    const actions = h("div", { className: "row" }, this.#run, hint, this.#link);
    const left = [field("Prompt of both", this.#prompt), actions, this.#trouble, this.#parting, this.#columns, this.#scale];
    this.lay(h("div", { className: "page beside" }), left, [this.#knobs], "Settings of both");
    this.#link.classList.add("push");
    this.#open();
  }

  async #open() {
    const asked = this.query.toString();
    const back = left && (!asked || asked === left.query) ? left : null;
    const query = back ? new URLSearchParams(back.query) : this.query;
    if (back?.fresh) query.set("fresh", "");
    this.#knobs.read(query);
    this.#prompt.value = query.get("prompt") ?? "";
    this.#sides.forEach((side) => side.read(query));
    if (back) this.#sides.forEach((side, i) => side.restore(back.sides[i]));
    this.#draw();
    this.#columns.hidden = !(await this.#run.waitFor(this.#load()));
  }

  async #load() {
    const [a, b] = this.#sides.map(({ model }) => model);
    const isSaid = !!b.wanted;
    const isThere = await loadModels([a, b], this.#trouble, noModels());
    // To compare a model with itself is seldom what is wanted first.
    const other = a.models.find(({ id }) => id !== a.model?.id);
    if (isThere && !isSaid && other) b.choose(other.id);
    return isThere;
  }

  async #write() {
    this.stop();
    const [prompt, notes] = mended(this.#prompt.value);
    if (notes.length) this.#prompt.value = prompt;
    const seed = this.#knobs.nextSeed();
    [this.#same, this.#isParted] = [0, false];
    this.#isRunning = true;
    this.#run.show(true);
    say("Writing");
    const came = () => this.frames.ask();
    this.#sides.forEach((side) => side.clear());
    const writings = this.#sides.map((side) => side.begin(prompt, notes, seed, this.#knobs, came));
    this.#changed();
    const [first] = this.#sides.map(({ writing }) => writing);
    await Promise.all(writings);
    if (!this.isConnected || this.#sides[0].writing !== first) return;
    this.#isRunning = false;
    this.#draw();
    say(this.#parting.textContent);
  }

  stop() {
    this.#sides.forEach((side) => side.stop());
  }

  #draw() {
    const areDone = this.#sides.map((side) => side.draw());
    if (areDone.includes(false)) this.frames.ask();
    this.#run.show(this.#isRunning);
    this.#scale.hidden = !this.#sides.some(({ text }) => text?.tokens.some(({ logprob }) => logprob != null));
    this.#part();
    // The tokens at which they part may come to the page later.
    this.#sides.forEach(({ tokens }, i) => tokens.mark(this.#partsAt[i], "parts"));
  }

  /** Marks where the two texts part for the first time. */
  #part() {
    const [a, b] = this.#sides;
    if (!a.text || !b.text || this.#isParted) return;
    const [one, other] = [a.text.text, b.text.text];
    const least = Math.min(one.length, other.length);
    while (this.#same < least && one[this.#same] === other[this.#same]) this.#same += 1;
    this.#isParted = this.#same < least;
    const [x, y] = (this.#partsAt = [a, b].map((side) => (this.#isParted ? tokenAt(side.text.tokens, this.#same) : -1)));
    if (this.#isParted) this.#parting.replaceChildren(...this.#parted(x, y));
    else if (this.#isRunning || !least) this.#parting.replaceChildren();
    else this.#parting.textContent = one.length === other.length ? "Both texts are the same." : "Both are the same as far as the shorter one goes.";
  }

  /** Where they part, in words, with the tokens at which they do. */
  #parted(x, y) {
    const [one, other] = [x, y].map((at, i) => h("bdi", { className: "mono parts" }, shown(this.#sides[i].text.tokens[at]?.text ?? "")));
    const same = [...this.#sides[0].text.text.slice(0, this.#same)].length;
    const where = same ? `after ${number(same)} ${same === 1 ? "character" : "characters"}` : "with their first character";
    return [`They part ${where}: `, one, " on one side, ", other, " on the other."];
  }

  #key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.#run.press();
    } else if (event.key === "Escape" && this.#isRunning) this.stop();
  }

  #changed() {
    this.saveSoon(() => this.#address());
    const sides = this.#sides.map(({ writing, prompt }) => ({ writing, prompt }));
    left = { query: new URLSearchParams(this.#address().split("?")[1]).toString(), fresh: this.#knobs.fresh, sides };
    this.#columns.classList.toggle("uneven", this.#sides[0].hasOwn !== this.#sides[1].hasOwn);
  }

  #address() {
    const params = new URLSearchParams();
    this.#sides.forEach((side) => side.write(params));
    params.set("prompt", this.#prompt.value);
    this.#knobs.write(params);
    return new URL(`#compare?${params}`, location.href).href;
  }
}

/** The token that has a place of the text, counted in units of JavaScript's strings. */
function tokenAt(tokens, place) {
  const utf8 = new TextDecoder();
  let end = 0;
  return tokens.findIndex(({ text, bytes }) => {
    end += (bytes ? utf8.decode(new Uint8Array(bytes), { stream: true }) : utf8.decode() + text).length;
    return end > place;
  });
}

customElements.define("kinglet-compare", Compare);
