// A text to look at: pasted, an example, or one that the model writes on the spot. The pages that read texts share it.

import { stream } from "./api.js";
import { field, h, say } from "./dom.js";
import "./knobs.js";
import { errorBox, keysHint, loadModels, mended, noModels, notesBox, runButton } from "./text.js";

/** The text that was looked at last, on whatever page. */
const LAST = "kinglet-text";

/** Longer texts stand in no address. */
const LINKED = 2000;

const MISSING = "There is no text yet: paste one, use the example, or let the model write one.";

/** As much as the model writes. */
const WRITTEN = { max_tokens: 300, temperature: 0.8 };

/** Something that a model of Shakespeare expects, and something that it does not. */
const EXAMPLE = `ROMEO:
But, soft! what light through yonder window breaks?
It is the east, and Juliet is the sun.

My neighbour bought a yellow bicycle, and on Monday he crashed it
into the only lamp post of the village.
`;

/**
 * A text, the model that reads it, and what goes wrong with it.
 *
 * - `work(signal)`: what the page does with the text. It is done once at a time, and ends early if `signal` is aborted.
 * - `label`: what the button says that starts it; `does`: what that is called behind its keys.
 */
export class Paste extends HTMLElement {
  work = async () => {};
  label = "Read it";
  does = "reads";
  #models = h("kinglet-model");
  #area = h("textarea", { rows: 6, spellcheck: "false", placeholder: "Paste a text here", maxlength: 1_000_000 });
  #trouble = h("div", { className: "stack" });
  #run;
  #author = h("button", { type: "button", onclick: () => this.#do((signal) => this.#write(signal)) }, "Write one with the model");
  #doing;
  /** Whether the model writes the text, with which the page works once it is there. */
  #isWriting = false;
  #read;

  connectedCallback() {
    if (this.firstChild) return;
    this.classList.add("stack");
    const example = h("button", { type: "button", onclick: () => this.#example() }, "Use an example");
    this.#run = runButton(this.label, () => this.go(), () => this.#doing?.abort());
    const actions = h("div", { className: "row" }, this.#run, keysHint(["Ctrl", "Enter"], this.does), example, this.#author);
    this.append(this.#models, field("Text", this.#area), actions, this.#trouble);
    this.addEventListener("keydown", (event) => this.#key(event));
    this.#models.addEventListener("change", () => this.#read && this.#read !== this.model?.id && this.again());
  }

  disconnectedCallback() {
    this.#doing?.abort();
  }

  /** The model that is chosen, as the server describes it. */
  get model() {
    return this.#models.model;
  }

  get text() {
    return this.#area.value;
  }

  /** Takes what an address says, and starts if it names a text. */
  async load(query) {
    this.#models.wanted = query.get("model");
    this.#area.value = query.get("text") ?? sessionStorage.getItem(LAST) ?? "";
    this.#author.disabled = true;
    const isThere = await this.#run.waitFor(loadModels([this.#models], this.#trouble, noModels()));
    this.#author.disabled = !isThere;
    if (isThere && query.get("text") && !this.#models.missing && !this.isBusy) await this.go();
  }

  /** Puts the model and, if it is not too long, the text into an address. */
  write(params) {
    if (this.model) params.set("model", this.model.id);
    if (this.text.length <= LINKED) params.set("text", this.text);
  }

  /** Does what the page does with a text; what is being done is stopped. */
  go() {
    return this.#do((signal) => this.#work(signal));
  }

  /** Does it for another choice. A text that is being written is written to its end first. */
  again() {
    if (!this.#isWriting) this.go();
  }

  /** Whether something is being done with the text, or it is being written. */
  get isBusy() {
    return Boolean(this.#doing);
  }

  async #work(signal) {
    if (!this.text) throw Object.assign(new Error(MISSING), { isMissing: true });
    const [whole, notes] = mended(this.text);
    if (notes.length) this.#area.value = whole;
    this.#trouble.replaceChildren(...[notesBox(notes)].filter(Boolean));
    sessionStorage.setItem(LAST, this.text);
    this.#read = this.model.id;
    await this.work(signal);
  }

  async #do(work) {
    this.#doing?.abort();
    this.#isWriting = false;
    const mine = (this.#doing = new AbortController());
    this.#trouble.replaceChildren();
    this.#run.show(true);
    try {
      await work(mine.signal);
    } catch (error) {
      if (!mine.signal.aborted) this.#fail(error);
      else if (this.isConnected) say("Stopped");
    } finally {
      if (this.#doing === mine) {
        this.#isWriting = false;
        this.#doing = undefined;
        this.#run.show(false);
      }
    }
  }

  async #write(signal) {
    this.#area.value = "";
    this.#isWriting = true;
    const body = { ...WRITTEN, model: this.model?.id, prompt: "", seed: crypto.getRandomValues(new Uint32Array(1))[0] };
    for await (const piece of stream("/v1/completions", body, signal)) this.#area.value += piece.choices[0]?.text ?? "";
    this.#isWriting = false;
    await this.#work(signal);
  }

  #example() {
    this.#area.value = EXAMPLE;
    this.#area.focus();
  }

  #fail(error) {
    this.#trouble.replaceChildren(errorBox(error), ...(error.meaning ? [h("p", { className: "hint" }, error.meaning)] : []));
    if (error.isMissing) this.#area.focus();
  }

  #key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.#run.press();
    } else if (event.key === "Escape" && this.#doing) {
      this.#doing.abort();
    }
  }
}

customElements.define("kinglet-paste", Paste);
