// A text as its tokens: each tinted by how surprising it is, each with what might have stood in its place.

import { h, newId, number, percent, readable, shown } from "./dom.js";

/** So many bits of surprise have the strongest tint: one chance in 256. */
export const MOST_BITS = 8;

/** The height of the bar at the top, under which nothing may be put. */
const BAR = 48;

/** Of a longer prompt, only so many characters at its end are shown at first. */
const FOLD = 600;

/** How strong a token's tint is, from 0 to 1, for its log-probability in nats. The first bits count most: 50 % is not 100 %. */
export function surprise(logprob) {
  return logprob == null ? 0 : Math.min(1, Math.max(0, -logprob / Math.LN2 / MOST_BITS)) ** 0.65;
}

/** Whether a token stands for the end of a text, or the like, and for no text. */
export function isSign({ text, bytes }) {
  return bytes?.length ? false : !text || /^<\|\w+\|>$/.test(text);
}

/** What the tints mean, in numbers. */
export function scale() {
  const steps = [1, 0.5, 0.25, 0.06, 0.015, 0.004];
  const boxes = steps.map((p) => {
    const box = h("i", null, p >= 0.1 ? `${p * 100} %` : `${+(p * 100).toPrecision(2)} %`);
    box.style.setProperty("--surprise", surprise(Math.log(p)));
    return box;
  });
  return h("div", { className: "scale" }, "Probability: ", ...boxes, " or less");
}

/**
 * A text as its tokens. Tokens are objects as the server sends them: `{id, text, bytes, logprob, top}`.
 *
 * - `label`: what the text is, for those who do not see it.
 * - `canChoose`: whether another token may be chosen in a token's place; then there are events `choose` with
 *   `detail: {index, token}`, where `index` counts tokens that were appended, and `token` is the alternative.
 * - `window`: how many of the newest tokens the model looks at, given ones included; they are marked.
 * - `from`: the token at which the arrow keys begin.
 *
 * A token with `chosen` is marked: somebody put it there. One with `isCut` is only the beginning of one.
 *
 * The arrow keys walk, Enter or the digits choose, Escape closes.
 */
export class Tokens extends HTMLElement {
  #tokens = [];
  #given = [];
  #at = -1;
  #list = h("div", { className: "tokens", role: "listbox", tabindex: "0", "aria-orientation": "horizontal" });
  #box = h("div", { className: "instead", hidden: true });
  #more = h("button", { type: "button", className: "quiet small fold", hidden: true, onclick: () => this.#unfold() });
  #isUnfolded = false;
  #pinned = false;
  #closing;
  #seen = [0, 0];
  #utf8 = new TextDecoder();
  canChoose = false;
  window = Infinity;
  from = 0;

  constructor() {
    super();
    this.#list.id = newId("tokens");
    this.#list.addEventListener("pointerover", (event) => this.#point(event));
    this.#list.addEventListener("pointerleave", () => this.#closeSoon());
    this.#box.addEventListener("pointerenter", () => clearTimeout(this.#closing));
    this.#box.addEventListener("pointerleave", () => this.#closeSoon());
    this.#list.addEventListener("click", (event) => this.#click(event));
    this.addEventListener("keydown", (event) => this.#key(event));
    this.addEventListener("focusout", (event) => {
      if (!this.contains(event.relatedTarget)) this.close();
    });
  }

  connectedCallback() {
    if (!this.#list.isConnected) this.append(this.#more, this.#list, this.#box);
  }

  disconnectedCallback() {
    clearTimeout(this.#closing);
  }

  set label(text) {
    this.#list.setAttribute("aria-label", text);
  }

  /** The tokens that were appended. */
  get tokens() {
    return this.#tokens;
  }

  /** The tokens that are given: the prompt. */
  get given() {
    return this.#given;
  }

  focus() {
    this.#list.focus();
  }

  /** Begins anew, with given tokens, which have no probabilities, and those that follow. */
  reset(given = [], tokens = []) {
    this.close();
    this.#tokens = [];
    this.#given = given;
    this.#seen = [0, 0];
    this.#utf8 = new TextDecoder();
    this.#list.replaceChildren(...given.map((token) => this.#span(token, "given")));
    this.#fold();
    this.extend(tokens);
  }

  /** Hides all but the end of a long prompt, behind which the text would not be seen. */
  #fold() {
    const spans = [...this.#list.children];
    const lengths = this.#given.map(({ text }) => text.length);
    const all = lengths.reduce((sum, length) => sum + length, 0);
    this.#more.hidden = this.#isUnfolded || all <= FOLD;
    if (this.#more.hidden) return;
    let shown = 0;
    for (let i = spans.length - 1; i >= 0; i--) {
      // The whole prompt may be one piece, as long as its tokens are not known.
      if (!shown && lengths[i] > FOLD) spans[i].replaceChildren(readable(this.#given[i].text.slice(-FOLD)));
      else if (shown + lengths[i] > FOLD) spans[i].hidden = true;
      shown += spans[i].hidden ? FOLD : Math.min(FOLD, lengths[i]);
    }
    const hidden = all - lengths.reduce((sum, length, i) => sum + (spans[i].hidden ? 0 : Math.min(FOLD, length)), 0);
    this.#more.textContent = `… ${number(hidden)} ${hidden === 1 ? "character" : "characters"} before this`;
  }

  #unfold() {
    this.#isUnfolded = true;
    this.#more.hidden = true;
    this.#given.forEach(({ text }, i) => {
      const span = this.#list.children[i];
      span.hidden = false;
      if (text.length > FOLD) span.replaceChildren(readable(text));
    });
    this.focus();
  }

  /** Goes on. */
  extend(tokens) {
    for (const token of tokens) {
      const span = this.#span(token, token.chosen ? "token chosen" : "token");
      span.dataset.index = this.#tokens.length;
      span.style.setProperty("--surprise", surprise(token.logprob).toFixed(3));
      this.#tokens.push(token);
      this.#list.append(span);
    }
    this.#mark();
  }

  #span(token, kind) {
    const span = h("span", { className: kind, role: "option", id: newId("token"), "aria-selected": "false" });
    span.setAttribute("aria-label", `${named(token)}, ${token.logprob == null ? "given" : percent(Math.exp(token.logprob))}`);
    // A line's end has a sign of its own, so that it can be pointed at.
    for (const part of readable(isSign(token) ? "" : this.#text(token)).split(/(\n)/)) {
      if (part === "\n") span.append(h("span", { className: "end" }), "\n");
      else if (part) span.append(part);
    }
    if (isSign(token)) span.append(h("span", { className: "nothing" }));
    if (token.isCut) span.classList.add("cut");
    return span;
  }

  /** What a token adds to the text: a character of several tokens stands where the last of them is. */
  #text(token) {
    if (token.bytes) return this.#utf8.decode(new Uint8Array(token.bytes), { stream: true });
    return this.#utf8.decode() + token.text;
  }

  /** Gives a token of those appended a mark, or takes it from the one that had it. */
  mark(index, kind) {
    this.#list.querySelector(`.${kind}`)?.classList.remove(kind);
    if (index >= 0) this.#list.children[this.#given.length + index]?.classList.add(kind);
  }

  /** Marks what the model sees when it predicts the token that is looked at, or the next one; nothing if that is all. */
  #mark() {
    const list = this.#list.children;
    const end = this.#at < 0 ? list.length : this.#given.length + this.#at;
    const [first, last] = this.#seen;
    const [from, to] = (this.#seen = end > this.window ? [end - this.window, end] : [0, 0]);
    for (let i = first; i < last; i++) if (i < from || i >= to) list[i]?.classList.remove("seen");
    for (let i = from; i < to; i++) if (i < first || i >= last) list[i].classList.add("seen");
    if (from === first && to > from === last > first) return;
    list[first]?.classList.remove("seen-from");
    if (to > from) list[from].classList.add("seen-from");
  }

  #point(event) {
    const index = event.target.closest(".token")?.dataset.index;
    if (index === undefined || this.#pinned || event.pointerType === "touch") return;
    clearTimeout(this.#closing);
    this.open(+index);
  }

  #click(event) {
    const index = event.target.closest(".token")?.dataset.index;
    if (index === undefined) return this.close();
    this.#pinned = true;
    this.open(+index);
  }

  #closeSoon() {
    clearTimeout(this.#closing);
    if (!this.#pinned) this.#closing = setTimeout(() => this.close(), 250);
  }

  /** Shows what might have stood in the place of a token. */
  open(index) {
    const token = this.#tokens[index];
    if (!token) return;
    this.#select(index);
    const detail = { index, token };
    this.#box.replaceChildren(this.#head(token, index), ...(token.top?.length ? this.#alternatives(token, index) : []));
    this.#box.hidden = false;
    this.#place();
    this.dispatchEvent(new CustomEvent("look", { detail }));
  }

  #head(token, index) {
    const about = [`token ${this.#given.length + index + 1}`];
    if (token.id != null) about.push(`id ${token.id}`);
    if (token.isCut) about.push("cut where the text stops; the probability is the whole token's");
    if (token.rank != null) about.push(`rank ${token.rank}`);
    if (token.entropy != null) about.push(`entropy ${(token.entropy / Math.LN2).toFixed(2)} bits`);
    const p = token.logprob == null ? "given, not predicted" : percent(Math.exp(token.logprob));
    return h("div", null,
      h("div", { className: "row" }, h("bdi", { className: "mono grow" }, named(token)), h("strong", null, p)),
      h("small", { className: "faint" }, about.join(" · ")));
  }

  #alternatives(token, index) {
    const items = token.top.map((other) => {
      const p = Math.exp(other.logprob);
      const share = h("span", null);
      share.style.setProperty("--share", p.toFixed(4));
      const parts = [
        h("bdi", { className: "mono" }, named(other)),
        h("span", { className: "share" }, share),
        h("span", { className: "number" }, percent(p)),
      ];
      const same = other.id === token.id;
      if (!this.canChoose) return h("li", { className: same ? "this" : null }, h("div", null, ...parts));
      const choose = () => this.#choose(index, other);
      return h("li", null, h("button", { type: "button", onclick: choose, "aria-current": same ? "true" : null, title: "Go on from this token" }, ...parts));
    });
    const list = h("ol", { "aria-label": this.canChoose ? "Go on with another token" : "What the model expected" }, ...items);
    return this.canChoose ? [list, h("small", { className: "faint" }, "Choose one, and the text goes on from there.")] : [list];
  }

  #choose(index, token) {
    this.close();
    this.#list.focus();
    this.dispatchEvent(new CustomEvent("choose", { detail: { index, token }, bubbles: true }));
  }

  /** The element of a token that was appended. */
  spanOf(index) {
    return this.#list.children[this.#given.length + index];
  }

  /** Goes to a token, and shows what might have stood in its place until another one is chosen. */
  show(index) {
    this.#list.focus({ preventScroll: true });
    this.spanOf(index)?.scrollIntoView({ block: "center" });
    this.#pinned = true;
    this.open(index);
  }

  #select(index) {
    this.#current()?.classList.remove("at");
    this.#current()?.setAttribute("aria-selected", "false");
    this.#at = index;
    const span = this.#current();
    span?.classList.add("at");
    span?.setAttribute("aria-selected", "true");
    if (span) this.#list.setAttribute("aria-activedescendant", span.id);
    else this.#list.removeAttribute("aria-activedescendant");
    this.#mark();
  }

  #current() {
    return this.#at < 0 ? undefined : this.#list.children[this.#given.length + this.#at];
  }

  /** Below the token, or above it where there is no room below; within this element. */
  #place() {
    const [all, token] = [this.getBoundingClientRect(), this.#current().getClientRects()[0]];
    if (!token) return;
    const left = Math.max(0, Math.min(token.left - all.left, all.width - this.#box.offsetWidth));
    this.#box.style.left = `${left}px`;
    const height = this.#box.offsetHeight + 2;
    const isAbove = token.bottom + height > innerHeight && token.top - height > BAR;
    this.#box.style.top = `${(isAbove ? token.top - height : token.bottom + 2) - all.top}px`;
  }

  /** Closes what is open. */
  close() {
    this.#pinned = false;
    this.#box.hidden = true;
    this.#select(-1);
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const last = this.#tokens.length - 1;
    const inside = this.#box.contains(event.target);
    if (event.key === "Escape" && !this.#box.hidden) {
      event.stopPropagation();
      this.close();
      this.#list.focus();
    } else if (inside) {
      const buttons = [...this.#box.querySelectorAll("button")];
      const to = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!to) return;
      event.preventDefault();
      buttons.at((buttons.indexOf(event.target) + to) % buttons.length).focus();
    } else if (event.target === this.#list && last >= 0) {
      const steps = { ArrowRight: this.#at < 0 ? this.from : this.#at + 1, ArrowLeft: this.#at < 0 ? last : this.#at - 1, Home: 0, End: last };
      if (event.key in steps) {
        event.preventDefault();
        this.#pinned = true;
        this.open(Math.max(0, Math.min(last, steps[event.key])));
        this.#current().scrollIntoView({ block: "nearest" });
      } else if (this.#at >= 0 && ["Enter", "ArrowDown"].includes(event.key)) {
        event.preventDefault();
        this.#box.querySelector("button")?.focus();
      } else if (this.#at >= 0 && this.canChoose && /^[1-9]$/.test(event.key)) {
        const other = this.#tokens[this.#at].top?.[event.key - 1];
        if (other) this.#choose(this.#at, other);
      }
    }
  }
}

/** A token by itself: its text, or its bytes if it is only a part of a character. */
export function named(token) {
  if (token.bytes?.length) return token.bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");
  return shown(token.text ?? "") || "(end of text)";
}

customElements.define("kinglet-tokens", Tokens);
