// Read: a text through the model's eyes. How surprising each token is, and what of it stands in the training text.

import { stream } from "./api.js";
import { h, newId, number, percent, readable, say } from "./dom.js";
import { bits } from "./bars.js";
import { Memorized } from "./memorized.js";
import "./paste.js";
import { notesBox, spell } from "./text.js";
import { named, scale } from "./tokens.js";

/** So many tokens are shown; more would make a browser slow. The figures are of all. */
const SHOWN = 20_000;

/** So many of the most surprising tokens are listed. */
const WORST = 12;

/** A log-probability that stands for what the model finds impossible: JSON has no infinity. */
const IMPOSSIBLE = -9999;

const ENCODER = new TextEncoder();

const VIEWS = [
  ["surprise", "Surprise"],
  ["memorized", "From the training text"],
];

/** The page. */
class Read extends HTMLElement {
  #form = h("kinglet-paste");
  #views = { surprise: new Surprise(), memorized: new Memorized() };
  #view = "surprise";
  #choice = {};
  #left = h("div", { className: "stack wide" });
  #right = h("div", { className: "stack wide" });
  /** What was read last in each view. */
  #done = {};

  connectedCallback() {
    if (this.firstChild) return;
    for (const [name, title] of VIEWS) {
      this.#choice[name] = h("button", { type: "button", onclick: () => this.#show(name, true) }, title);
    }
    this.#form.work = (signal) => this.#work(signal);
    const views = h("div", { className: "buttons", role: "group", "aria-label": "What to look at" }, ...Object.values(this.#choice));
    const result = h("div", { className: "page beside" }, this.#left, this.#right);
    this.append(h("div", { className: "stack wide" }, this.#form, h("div", { className: "row" }, views), result));
    this.#show(this.query.get("view") === "memorized" ? "memorized" : "surprise");
    this.#form.load(this.query);
  }

  disconnectedCallback() {
    for (const view of Object.values(this.#views)) view.leave?.();
  }

  /** Shows a view, and asks for what it has not seen yet of the text that the other one shows, or is about to show. */
  #show(name, asked) {
    const isOther = name !== this.#view;
    this.#view = name;
    for (const [other, button] of Object.entries(this.#choice)) button.setAttribute("aria-pressed", String(other === name));
    this.#left.replaceChildren(this.#views[name].left);
    this.#right.replaceChildren(this.#views[name].right);
    const other = name === "surprise" ? "memorized" : "surprise";
    const isThere = isOther && (this.#form.isBusy || this.#done[other]);
    if (asked && isThere && this.#done[name] !== this.#key()) this.#form.again();
    if (asked) this.#remember();
  }

  #key() {
    return JSON.stringify([this.#form.model?.id, this.#form.text]);
  }

  async #work(signal) {
    const [name, key] = [this.#view, this.#key()];
    this.#done = { ...this.#done, [name]: undefined };
    this.#remember();
    await this.#views[name].run(this.#form.model, this.#form.text, signal);
    this.#done[name] = key;
  }

  #remember() {
    const params = new URLSearchParams();
    this.#form.write(params);
    if (this.#view !== "surprise") params.set("view", this.#view);
    history.replaceState(null, "", `#read?${params}`);
  }
}

/** How surprising each token is. */
class Surprise {
  #tokens = h("kinglet-tokens");
  #count = h("small", { className: "faint", hidden: true });
  #notes = h("div", null);
  #switch = h("input", { type: "checkbox", checked: true, id: newId("lines") });
  #column = h("div", { className: "line-figures", "aria-hidden": "true" });
  #text = h("div", { className: "lined" }, this.#column, this.#tokens);
  #summary = h("dl", { className: "figures" });
  #bars = h("kinglet-bars");
  #worst = h("ol", { className: "plain", "aria-label": "The most surprising tokens" });
  #resized = new ResizeObserver(() => this.#place());
  #lines = [];
  #cut = "";
  #result = h("div", { className: "stack", hidden: true },
    h("div", { className: "row" }, scale(), h("span", { className: "grow" }),
      h("span", { className: "field inline" }, this.#switch, h("label", { for: this.#switch.id }, "Bits per character of each line"))),
    this.#count, this.#text, this.#notes);
  #empty = h("p", { className: "empty" }, "Paste a text above and read it. Each of its tokens is tinted by how much it surprises the model.");
  left = h("div", { className: "stack" }, this.#empty, this.#result);
  right = h("div", { className: "stack wide", hidden: true },
    h("section", { className: "stack" }, h("h2", null, "The whole text"), this.#summary),
    h("section", { className: "stack" }, h("h2", null, "Bits per character, line by line"), this.#bars,
      h("small", { className: "hint" }, "A token that goes on over a line's end counts for each line by its characters there.")),
    h("section", { className: "stack" }, h("h2", null, "Where it was most surprised"), this.#worst));

  constructor() {
    this.#tokens.label = "The text, token by token";
    this.#switch.addEventListener("change", () => this.#place());
    this.#bars.addEventListener("choose", (event) => this.#goTo(event.detail));
    this.#resized.observe(this.#text);
  }

  leave() {
    this.#resized.disconnect();
  }

  /** Reads a text. */
  async run(model, text, signal) {
    const all = [];
    let end;
    this.#begin();
    try {
      for await (const piece of stream("/api/score", { model: model.id, text, top: 8 }, signal)) {
        this.#tokens.extend(piece.tokens.slice(0, Math.max(0, SHOWN - all.length)));
        all.push(...piece.tokens);
        this.#result.hidden = false;
        this.#empty.hidden = true;
        if (piece.summary) end = piece;
        else this.#say(`Reading: ${number(all.length)} tokens so far`);
      }
    } catch (error) {
      this.#say(`This ended after ${number(all.length)} tokens. There are no figures of a part.`);
      throw error;
    }
    this.#end(model, all, end);
  }

  #begin() {
    this.#empty.hidden = false;
    this.#result.hidden = true;
    this.right.hidden = true;
    this.#lines = [];
    this.#column.replaceChildren();
    this.#notes.replaceChildren();
    this.#tokens.reset();
  }

  #say(what) {
    this.#count.hidden = !what;
    this.#count.textContent = what;
  }

  #end(model, all, { summary, notes }) {
    this.#cut = all.length > SHOWN ? `The first ${number(SHOWN)} of ${number(all.length)} tokens are shown. The figures are of all of them.` : "";
    this.#say(this.#cut);
    const alone = summary.predicted_tokens ? [] : ["The first token of a text is never predicted: there is nothing before it. A longer text has figures."];
    this.#notes.replaceChildren(notesBox([...notes, ...alone]) ?? "");
    this.#lines = linesOf(all);
    this.right.hidden = false;
    this.#summarize(summary);
    this.#bars.show(this.#lines, references(model, summary));
    this.#list(all);
    this.#place();
    say(alone[0] ?? `Read. ${mean(summary.bits_per_char)} bits per character, ${share(summary)} of the tokens were the first choice.`);
  }

  #summarize(summary) {
    const { bits_per_char: perChar, bits_per_byte: perByte, perplexity, tokens, predicted_tokens: predicted } = summary;
    const rows = [
      ["Bits per character", mean(perChar), perChar],
      ["Bits per byte", mean(perByte), perByte],
      ["Perplexity", mean(perplexity), perplexity],
      ["First choices", share(summary)],
      ["Tokens", predicted < tokens ? `${number(tokens)}, ${number(predicted)} of them predicted` : number(tokens)],
    ].filter(([name]) => name !== "Bits per byte" || perByte !== perChar);
    // All digits that the server sent are there for those who point at a figure.
    this.#summary.replaceChildren(...rows.map(([name, value, exact]) => h("div", null, h("dt", null, name), h("dd", { title: exact }, value))));
  }

  #list(all) {
    const order = all.filter((token) => token.logprob != null).sort((a, b) => a.logprob - b.logprob).slice(0, WORST);
    this.#worst.replaceChildren(...order.map((token) => {
      const around = (from, to) => spell(all.slice(Math.max(0, from), to));
      const [before, after] = [around(token.index - 12, token.index), around(token.index + 1, token.index + 13)];
      const hidden = token.index >= SHOWN;
      const about = { disabled: hidden, title: hidden ? "It is behind the part that is shown" : null };
      return h("li", null, h("button", { type: "button", className: "place", ...about, onclick: () => this.#tokens.show(token.index) },
        h("bdi", { className: "mono" }, oneLine([...before].slice(-14)), h("strong", null, named(token)), oneLine([...after].slice(0, 14))),
        h("span", { className: "number" }, percent(Math.exp(token.logprob)))));
    }));
  }

  /** Goes to the most surprising token of some lines. */
  #goTo(lines) {
    const worst = lines.map((line) => line.worst).filter((token) => token && token.index < SHOWN).sort((a, b) => a.logprob - b.logprob)[0];
    this.#say(worst ? this.#cut : `${this.#cut} Line ${number(lines[0].number)} is not among those that are shown.`);
    if (worst) this.#tokens.show(worst.index);
  }

  /** Puts the figure of each line beside it. Lines are as high as they are wrapped, so they are measured. */
  #place() {
    this.#text.classList.toggle("with-figures", this.#switch.checked && this.#lines.length > 0);
    if (!this.#switch.checked || !this.#text.isConnected) return this.#column.replaceChildren();
    const top = this.#text.getBoundingClientRect().top;
    const places = this.#lines.map((line) => this.#topOf(line));
    this.#column.replaceChildren(...this.#lines.flatMap((line, i) => {
      if (places[i] == null) return [];
      const figure = h("span", null, bits(line.bitsPerChar));
      figure.style.setProperty("top", `${places[i] - top}px`);
      return [figure];
    }));
  }

  /** Where a line begins: at a token, or within it, behind so many line ends. */
  #topOf({ token, ends }) {
    const span = this.#tokens.spanOf(token);
    const within = ends ? span?.querySelectorAll(".end")[ends - 1]?.nextSibling?.nextSibling : span;
    const first = within ?? this.#tokens.spanOf(token + 1);
    if (!first) return null;
    const range = document.createRange();
    range.selectNode(first);
    return range.getClientRects()[0]?.top;
  }
}

/** A mean as the server sends it, for people: its largest number stands for infinity. */
function mean(value) {
  return value === Number.MAX_VALUE ? "∞" : number(value);
}

/** Some characters in one line; a token that is pointed out has signs for its blanks, what is around it has not. */
function oneLine(chars) {
  return readable(chars.join("")).replaceAll("\n", "↵");
}

function share({ first_choices: first, predicted_tokens: all }) {
  return all ? `${percent(first / all)} (${number(first)} of ${number(all)})` : "–";
}

/**
 * The lines of a text with their bits per character. A token that goes on over a line's end counts for each line with as many
 * of its characters as stand there. A token that is not predicted counts nowhere, and neither do its characters.
 */
export function linesOf(tokens) {
  const lines = [];
  const begin = (token, ends) => lines.push({ number: lines.length + 1, token, ends, bits: 0, chars: 0, worst: null });
  begin(0, 0);
  tokens.forEach((token, at) => {
    const is = token.logprob != null;
    const all = is ? (token.logprob <= IMPOSSIBLE ? Infinity : -token.logprob / Math.LN2) : 0;
    // The first byte of a character is one that does not go on with another one.
    const starts = [...(token.bytes ?? ENCODER.encode(token.text))].filter((byte) => (byte & 0xc0) !== 0x80);
    if (!starts.length) lines.at(-1).bits += all;
    if (is && !(lines.at(-1).worst?.logprob <= token.logprob)) lines.at(-1).worst = token;
    let ends = 0;
    for (const byte of starts) {
      const line = lines.at(-1);
      line.bits += all / starts.length;
      line.chars += is ? 1 : 0;
      if (byte === 0x0a) begin(at, (ends += 1));
    }
  });
  if (!lines.at(-1).chars && lines.length > 1) lines.pop();
  for (const line of lines) line.bitsPerChar = line.chars ? line.bits / line.chars : null;
  return lines;
}

/** What bits per character are compared with. All of it was measured on the run's own validation text, in nats per token. */
function references({ kinglet }, summary) {
  // Two figures of the same text give its tokens per character as the server counts them.
  const perChar = summary.bits_per_char / summary.loss;
  const all = [
    ["this model", kinglet.val_loss_exact ?? kinglet.val_loss],
    [kinglet.baseline?.name, kinglet.baseline?.nats_per_token],
    ["entropy floor", kinglet.entropy_floor],
  ];
  return all.filter(([, nats]) => nats != null && Number.isFinite(nats * perChar)).map(([name, nats]) => ({ name, bits: nats * perChar }));
}

customElements.define("kinglet-read", Read);
