// What of a text stands in the training text: the longest passages, and how many short pieces are new.

import { post } from "./api.js";
import { bar, h, heads, number, percent, readable, say } from "./dom.js";
import { notesBox } from "./text.js";

/** The server tells of so many passages at most. */
const MOST = 20;

/** What it means that the text cannot be had. */
const MISSING = "The passages are looked up in the text that the model was trained on, which is read again for that. " +
  "Start kinglet serve where this text can be found.";

/** Passages of so many characters have the strongest tint, and those of 8, the shortest that the server tells of, the weakest. */
const LONG = 64;

/** Lengths from here on stand in the text; others stand in the list alone. */
const NUMBERED = 16;

/** How strong the tint of a passage is, for its length. */
const tintOf = (length) => Math.min(1, (1 + Math.log2(length / 8)) / (1 + Math.log2(LONG / 8))).toFixed(2);

/** The view; the page puts `left` and `right` where they belong. */
export class Memorized {
  #about = h("p", { className: "faint" });
  #text = h("div", { className: "tokens marked" });
  #notes = h("div", null);
  #list = h("ol", { className: "plain" });
  #grams = h("div", { className: "stack" });
  #empty = h("p", { className: "empty" }, "Read a text, or let the model write one. What of it stands in the training text is marked.");
  #result = h("div", { className: "stack", hidden: true }, this.#about, scale(), this.#text, this.#notes);
  #spans = [];
  left = h("div", { className: "stack" }, this.#empty, this.#result);
  right = h("div", { className: "stack wide", hidden: true },
    h("section", { className: "stack" }, h("h2", null, "Longest passages"), this.#list),
    h("section", { className: "stack" }, h("h2", null, "Pieces that are new"), this.#grams));

  /** Looks a text up. */
  async run(model, text, signal) {
    this.#empty.hidden = true;
    this.#result.hidden = this.right.hidden = true;
    try {
      this.#show(await post("/api/memorized", { model: model.id, text }, signal), text);
    } catch (error) {
      this.#empty.hidden = false;
      if (error.code !== "training_text_not_found") throw error;
      // What the message goes on with is for those who begin a training.
      throw Object.assign(new Error(`${error.message.split("; ")[0]}.`), { meaning: MISSING });
    }
  }

  #show(answer, text) {
    const chars = [...text];
    this.#spans = answer.spans;
    const covered = chars.filter((_, at) => this.#spans.some(({ start, end }) => at >= start && at < end)).length;
    const which = this.#spans.length === MOST ? `The ${MOST} longest passages` : "Passages of at least 8 characters";
    this.#about.textContent = `${number(answer.searched_bytes)} bytes of the training text were searched: ${answer.source}. ` +
      (this.#spans.length ? `${which} that stand there cover ${percent(covered / chars.length)} of the text.` : "");
    this.#text.replaceChildren(...this.#marked(chars));
    this.#notes.replaceChildren(notesBox(answer.notes) ?? "");
    const none = h("li", { className: "faint" }, "Nothing of at least 8 characters stands in the training text.");
    this.#list.replaceChildren(...(this.#spans.length ? this.#spans.map((span, i) => this.#item(span, i)) : [none]));
    this.#grams.replaceChildren(...this.#bars(answer.ngrams));
    this.#result.hidden = this.right.hidden = false;
    const [longest] = this.#spans;
    const found = () => `${this.#spans.length} passages stand in the training text. The longest has ${longest.end - longest.start} characters.`;
    say(longest ? found() : none.textContent);
  }

  /** The text in pieces, each of which is in the same passages throughout; a piece belongs to the longest of them. */
  #marked(chars) {
    const cuts = [...new Set([0, chars.length, ...this.#spans.flatMap(({ start, end }) => [start, end])])].sort((a, b) => a - b);
    return cuts.slice(0, -1).flatMap((from, k) => {
      const piece = readable(chars.slice(from, cuts[k + 1]).join(""));
      const i = this.#spans.findIndex(({ start, end }) => start <= from && from < end);
      if (i < 0) return [piece];
      const { start, end } = this.#spans[i];
      const length = end - start;
      const sign = from === start && length >= NUMBERED ? h("small", { className: "length", "aria-hidden": "true" }, String(length)) : null;
      // The number stands where the passage can be seen to begin.
      const [, ends, rest] = piece.match(/^(\n*)([^]*)$/);
      const mark = h("mark", { title: `${length} characters`, onclick: () => this.#choose(i) }, ends, sign, rest);
      mark.style.setProperty("--surprise", tintOf(length));
      [mark.dataset.from, mark.dataset.to] = [from, cuts[k + 1]];
      return [mark];
    });
  }

  #item(span, i) {
    const at = span.found_at == null ? "" : `At byte ${number(span.found_at)} of the training text`;
    const often = span.count == null ? "" : span.count === 1 ? ", and nowhere else" : `, ${number(span.count)} times in all`;
    const where = h("div", { className: "where", hidden: true },
      h("small", { className: "faint" }, `${at}${often}:`),
      h("p", { className: "mono small" },
        h("bdi", null, "…", readable(span.before), h("mark", null, readable(span.text)), readable(span.after), "…")));
    const button = h("button", { type: "button", className: "place", "aria-expanded": "false", onclick: () => this.#choose(i) },
      h("bdi", { className: "mono" }, readable(span.text).trim().replaceAll("\n", "↵")),
      h("span", { className: "number" }, `${span.end - span.start} characters`));
    return h("li", null, button, where);
  }

  /** Opens a passage, in the list and in the text; the one that is open is closed. */
  #choose(i) {
    this.#list.querySelectorAll("button").forEach((button, k) => {
      const open = k === i && button.getAttribute("aria-expanded") === "false";
      button.setAttribute("aria-expanded", String(open));
      button.nextElementSibling.hidden = !open;
      if (k === i) {
        button.focus({ preventScroll: true });
        this.#point(open ? this.#spans[i] : { start: 0, end: 0 });
      }
    });
  }

  /** Marks a passage in the text, of which a longer one may have a part. */
  #point({ start, end }) {
    const marks = [...this.#text.querySelectorAll("mark")];
    for (const mark of marks) mark.classList.toggle("at", start <= mark.dataset.from && mark.dataset.to <= end);
    marks.find((mark) => mark.classList.contains("at"))?.scrollIntoView({ block: "nearest" });
  }

  #bars(grams) {
    const rows = grams.map(({ n, total, unseen }) => h("tr", null,
      h("th", { scope: "row", className: "number" }, String(n)),
      h("td", null, bar(total ? unseen / total : 0)),
      h("td", { className: "number", title: `${number(unseen)} of ${number(total)}` }, total ? percent(unseen / total) : "–")));
    const about = h("small", { className: "hint" }, "The share of all pieces of so many characters that do not stand in the training text.");
    return [h("table", { className: "grams" }, heads(["Characters"], ["As a bar", "unseen"], ["New", "number"]), h("tbody", null, ...rows)), about];
  }
}

/** What the tints mean, in numbers. */
function scale() {
  const boxes = [8, 16, 32, LONG].map((length) => {
    const box = h("i", null, String(length));
    box.style.setProperty("--surprise", tintOf(length));
    return box;
  });
  return h("div", { className: "scale" }, "Characters: ", ...boxes, " or more");
}
