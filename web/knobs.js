// How texts are drawn: the settings of sampling, and the model.

import { allModels } from "./api.js";
import { field, h, short } from "./dom.js";

/** Each setting: its name in the API, its label, what it is where nothing was said, and its range. */
const KNOBS = [
  { name: "temperature", label: "Temperature", value: 0.8, min: 0, max: 2, step: 0.05, hint: "0 always takes the likeliest token." },
  { name: "top_k", label: "Top k", value: 0, min: 0, max: 200, step: 1, more: true, hint: "0 is all tokens." },
  { name: "top_p", label: "Top p", value: 1, min: 0.05, max: 1, step: 0.05, more: true },
  { name: "min_p", label: "Min p", value: 0, min: 0, max: 1, step: 0.01, more: true },
  { name: "repetition_penalty", label: "Repetition penalty", value: 1, min: 1, max: 2, step: 0.05, more: true },
  { name: "max_tokens", label: "Tokens", value: 200, min: 1, max: 2000, step: 1 },
];

/** The largest seed: larger whole numbers are not exact in JavaScript. */
const MOST_SEED = Number.MAX_SAFE_INTEGER;

/** So many texts before which to stop are taken at most. */
const MOST_STOPS = 4;

/** A seed within its range; what is no number is as usual. */
function seedOf(value) {
  return Number.isFinite(value) ? Math.min(MOST_SEED, Math.max(0, Math.round(value))) : 1;
}

/** A text before which to stop, on a line of its own: what ends a line is written as in most languages. */
const SIGNS = { "\n": "\\n", "\r": "\\r", "\\": "\\\\" };
const escaped = (text) => text.replace(/[\n\r\\]/g, (char) => SIGNS[char]);
const unescaped = (line) => line.replace(/\\[nr\\]/g, (sign) => Object.keys(SIGNS).find((char) => SIGNS[char] === sign));

/**
 * The settings, as a form. The event `change` comes with each change.
 *
 * - `read(params)` takes what an address says; `write(params)` puts there what is not as usual.
 * - `body()` is what the API gets.
 * - `seedless`: these settings go with a seed that stands elsewhere.
 */
export class Knobs extends HTMLElement {
  #inputs = {};
  #seed = h("input", { type: "number", className: "seed", min: 0, max: MOST_SEED, step: 1, value: "1" });
  #fresh = h("input", { type: "checkbox", checked: true });
  #stop = h("textarea", { rows: 2, spellcheck: "false" });
  #tooMany = h("small", { role: "status" });
  seedless = false;

  constructor() {
    super();
    for (const knob of KNOBS) this.#inputs[knob.name] = this.#slider(knob);
    // Who types a seed wants that one.
    this.#seed.addEventListener("input", () => (this.#fresh.checked = false));
    this.#seed.addEventListener("change", () => (this.#seed.value = String(this.seed)));
    this.#stop.addEventListener("input", () => this.#count());
    this.addEventListener("input", () => this.dispatchEvent(new Event("change")));
  }

  connectedCallback() {
    if (this.firstChild) return;
    const pick = (more) => KNOBS.filter((knob) => !!knob.more === more).map((knob) => this.#inputs[knob.name].field);
    const fresh = field("A new seed each time", this.#fresh);
    fresh.classList.add("inline");
    fresh.prepend(this.#fresh);
    this.classList.add("stack");
    this.append(
      ...pick(false),
      this.seedless ? "" : h("div", { className: "stack" }, field("Seed", this.#seed, "The same seed writes the same text."), fresh),
      h("details", null, h("summary", null, "More"), h("div", { className: "stack" }, ...pick(true), 
        h("div", { className: "stack" }, field("Stop before (one text a line)", this.#stop, "\\n stands for a line's end."), this.#tooMany))),
    );
  }

  #slider({ name, label, value, min, max, step, hint }) {
    const exact = h("input", { type: "number", min, max, step: step === 1 ? 1 : "any", value: String(value) });
    const range = h("input", { type: "range", min, max, step, value: String(value), "aria-label": label });
    range.addEventListener("input", () => (exact.value = range.value));
    exact.addEventListener("input", () => (range.value = exact.value));
    // What is shown is what is used.
    exact.addEventListener("change", () => (exact.value = range.value = String(this.value(name))));
    const pair = field(label, exact, hint);
    const both = h("div", { className: "pair" }, range);
    exact.replaceWith(both);
    both.append(exact);
    return { exact, range, field: pair };
  }

  /** The value of a setting, within its range; what is no number is as usual. */
  value(name) {
    const { value, min, max, step } = KNOBS.find((knob) => knob.name === name);
    const given = this.#inputs[name].exact.valueAsNumber;
    if (!Number.isFinite(given)) return value;
    return Math.min(max, Math.max(min, step === 1 ? Math.round(given) : given));
  }

  /** Whether each text gets a new seed. */
  get fresh() {
    return this.#fresh.checked;
  }

  get seed() {
    return seedOf(this.#seed.valueAsNumber);
  }

  /** The seed for the next text: a new one, if that is wanted, which is shown. */
  nextSeed(isNew = this.#fresh.checked) {
    if (isNew) this.#seed.value = String(crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000);
    this.#seed.value = String(this.seed);
    this.dispatchEvent(new Event("change"));
    return this.seed;
  }

  /** The texts before which to stop. */
  get stops() {
    return this.#lines.slice(0, MOST_STOPS).map(unescaped);
  }

  get #lines() {
    return this.#stop.value.split("\n").filter(Boolean);
  }

  #count() {
    const over = this.#lines.length - MOST_STOPS;
    this.#tooMany.textContent = over > 0 ? `Only the first ${MOST_STOPS} are used: the server takes no more.` : "";
  }

  /** What the API gets. */
  body() {
    const body = Object.fromEntries(KNOBS.map(({ name }) => [name, this.value(name)]));
    if (!body.top_k) delete body.top_k;
    if (this.stops.length) body.stop = this.stops;
    return body;
  }

  /** Takes what an address says; what it does not say is as usual. */
  read(params) {
    for (const { name, value } of KNOBS) {
      const given = Number(params.get(name) ?? value);
      const { exact, range } = this.#inputs[name];
      exact.value = String(Number.isFinite(given) ? given : value);
      exact.value = range.value = String(this.value(name));
    }
    this.#stop.value = params.getAll("stop").map(escaped).join("\n");
    this.#count();
    if (params.has("seed")) {
      this.#seed.value = String(seedOf(Number(params.get("seed") || NaN)));
      this.#fresh.checked = params.has("fresh");
    }
  }

  /** Puts into an address what is not as usual, and the seed. */
  write(params) {
    for (const { name, value } of KNOBS) if (this.value(name) !== value) params.set(name, this.value(name));
    this.stops.forEach((stop) => params.append("stop", stop));
    if (!this.seedless) params.set("seed", this.seed);
  }
}

customElements.define("kinglet-knobs", Knobs);

/** The model that was chosen last, on whatever page. */
const LAST = "kinglet-model";

/**
 * A choice of the models that are served. The event `change` comes when another one is there. `wanted` is what an address
 * asks for; `chatOnly` leaves those that know conversations.
 */
export class ModelPicker extends HTMLElement {
  #select = h("select", { "aria-label": "Model" });
  #about = h("small", { className: "faint" });
  #curves = h("a", { className: "small quiet", hidden: true }, "Curves");
  #models = [];
  wanted = null;
  chatOnly = false;

  connectedCallback() {
    if (!this.firstChild) {
      this.classList.add("row");
      this.append(this.#select, this.#about, this.#curves);
      this.#select.addEventListener("change", (event) => {
        event.stopPropagation();
        sessionStorage.setItem(LAST, this.#select.value);
        this.#chosen();
      });
    }
  }

  /** Asks for the models. Resolves once one is chosen, or there is none; rejects if the server cannot be asked. */
  async load() {
    const all = await allModels();
    this.#models = all.filter((model) => !this.chatOnly || model.kinglet?.chat);
    const before = this.#select.value;
    this.#select.replaceChildren(...this.#models.map(({ id }) => h("option", { value: id }, id)));
    // Who comes for the first time most likely wants the one that was trained last.
    const newest = this.#models.reduce((a, b) => (b.created > a?.created || !a ? b : a), undefined);
    const wishes = [this.wanted, before, sessionStorage.getItem(LAST), newest?.id];
    // A checkpoint may be named, as in "mine@last", that is in no list.
    const named = this.wanted?.includes("@") && this.#models.some(({ id }) => this.wanted.startsWith(`${id}@`));
    if (named && !this.#models.some(({ id }) => id === this.wanted)) {
      const base = this.#models.find(({ id }) => this.wanted.startsWith(`${id}@`));
      this.#models.unshift({ ...base, id: this.wanted });
      this.#select.prepend(h("option", { value: this.wanted }, this.wanted));
    }
    const found = wishes.find((id) => this.#models.some((model) => model.id === id));
    if (found) this.#select.value = found;
    this.missing = this.wanted && found !== this.wanted ? this.wanted : null;
    this.wanted = null;
    this.#chosen();
  }

  #chosen() {
    const about = this.model?.kinglet;
    const parts = about ? [about.params && `${short(about.params)} parameters`, about.block_size && `sees ${about.block_size} tokens`, about.step != null && `step ${about.step}`] : [];
    this.#about.textContent = parts.filter(Boolean).join(" · ");
    this.#curves.hidden = !this.model;
    const run = this.model?.id.replace(/@[^/]*$/, "");
    this.#curves.setAttribute("href", `./#runs?run=${encodeURIComponent(run)}`);
    this.#curves.setAttribute("aria-label", `Curves of ${run}`);
    this.dispatchEvent(new Event("change"));
  }

  /** The model that is chosen, as the server describes it; undefined if there is none. */
  get model() {
    return this.#models.find(({ id }) => id === this.#select.value);
  }

  /** Chooses one of them. */
  choose(id) {
    this.#select.value = id;
    this.#chosen();
  }

  /** All that may be chosen. */
  get models() {
    return this.#models;
  }
}

customElements.define("kinglet-model", ModelPicker);
