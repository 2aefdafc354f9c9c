// A text as its tokens: each tinted by how surprising it is, each with what might have stood in its place.

import { h, newId, percent, readable, shown } from "./dom.js";

/** So many bits of surprise have the strongest tint: one chance in 256. */
export const MOST_BITS = 8;

/** How strong a token's tint is, from 0 to 1, for its log-probability in nats. */
export function surprise(logprob) {
  return logprob == null ? 0 : Math.min(1, Math.max(0, -logprob / Math.LN2 / MOST_BITS));
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
 * - `window`: how many of the newest tokens the model sees, given ones included; what is before them is paler.
 *
 * The arrow keys walk, Enter or the digits choose, Escape closes.
 */
export class Tokens extends HTMLElement {
  #tokens = [];
  #given = [];
  #at = -1;
  #list = h("div", { className: "tokens", role: "listbox", tabindex: "0", "aria-orientation": "horizontal" });
  #box = h("div", { className: "instead", hidden: true });
  #pinned = false;
  #closing;
  #edge;
  canChoose = false;
  window = Infinity;

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
    if (!this.#list.isConnected) this.append(this.#list, this.#box);
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

  /** Begins anew, with given tokens, which have no probabilities, and those that follow. */
  reset(given = [], tokens = []) {
    this.close();
    this.#tokens = [];
    this.#given = given;
    this.#list.replaceChildren(...given.map((token) => this.#span(token, "given")));
    this.extend(tokens);
  }

  /** Goes on. */
  extend(tokens) {
    for (const token of tokens) {
      const span = this.#span(token, "token");
      span.dataset.index = this.#tokens.length;
      span.setAttribute("aria-label", `${shown(token.text)}, ${token.logprob == null ? "given" : percent(Math.exp(token.logprob))}`);
      span.style.setProperty("--surprise", surprise(token.logprob).toFixed(3));
      this.#tokens.push(token);
      this.#list.append(span);
    }
    this.#mark();
  }

  #span(token, kind) {
    const span = h("span", { className: kind, role: "option", id: newId("token"), "aria-selected": "false" });
    // A line's end has a sign of its own, so that it can be pointed at.
    for (const part of readable(token.text).split(/(\n)/)) {
      if (part === "\n") span.append(h("span", { className: "end" }), "\n");
      else if (part) span.append(part);
    }
    return span;
  }

  /** Marks where the part begins that the model sees. */
  #mark() {
    const first = this.#list.childElementCount - this.window;
    if (!(first > 0) && this.#edge === undefined) return;
    for (let i = this.#edge ?? 0; i <= first; i++) {
      const span = this.#list.children[i];
      span?.classList.toggle("unseen-by-model", i < first);
      span?.classList.toggle("seen-from", i === first);
    }
    this.#edge = Math.max(0, first);
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
    this.#box.replaceChildren(this.#head(token, index), ...(token.top?.length ? [this.#alternatives(token, index)] : []));
    this.#box.hidden = false;
    this.#place();
    this.dispatchEvent(new CustomEvent("look", { detail }));
  }

  #head(token, index) {
    const number = token.index ?? this.#given.length + index;
    const about = [`token ${number + 1}`, `id ${token.id}`];
    if (token.rank != null) about.push(`rank ${token.rank}`);
    if (token.entropy != null) about.push(`entropy ${(token.entropy / Math.LN2).toFixed(2)} bits`);
    const p = token.logprob == null ? "given, not predicted" : percent(Math.exp(token.logprob));
    return h("div", null,
      h("div", { className: "row" }, h("bdi", { className: "mono grow" }, shown(token.text) || bytes(token)), h("strong", null, p)),
      h("small", { className: "faint" }, about.join(" · ")));
  }

  #alternatives(token, index) {
    const items = token.top.map((other) => {
      const p = Math.exp(other.logprob);
      const share = h("span", null);
      share.style.setProperty("--share", p.toFixed(4));
      const parts = [
        h("bdi", { className: "mono" }, shown(other.text) || bytes(other)),
        h("span", { className: "share" }, share),
        h("span", { className: "number" }, percent(p)),
      ];
      const same = other.id === token.id;
      if (!this.canChoose) return h("li", { className: same ? "this" : null }, h("div", null, ...parts));
      const choose = () => this.#choose(index, other);
      return h("li", null, h("button", { type: "button", onclick: choose, "aria-current": same ? "true" : null, title: "Go on from this token" }, ...parts));
    });
    return h("ol", { "aria-label": this.canChoose ? "Go on with another token" : "What the model expected" }, ...items);
  }

  #choose(index, token) {
    this.close();
    this.#list.focus();
    this.dispatchEvent(new CustomEvent("choose", { detail: { index, token }, bubbles: true }));
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
  }

  #current() {
    return this.#list.children[this.#given.length + this.#at];
  }

  /** Below the token, within this element. */
  #place() {
    const [all, token] = [this.getBoundingClientRect(), this.#current().getClientRects()[0]];
    if (!token) return;
    const left = Math.max(0, Math.min(token.left - all.left, all.width - this.#box.offsetWidth));
    this.#box.style.left = `${left}px`;
    this.#box.style.top = `${token.bottom - all.top + 2}px`;
  }

  /** Closes what is open. */
  close() {
    this.#pinned = false;
    this.#box.hidden = true;
    this.#select(-1);
  }

  #key(event) {
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
      const steps = { ArrowRight: this.#at + 1, ArrowLeft: this.#at < 0 ? last : this.#at - 1, Home: 0, End: last };
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

/** A token that is no text by itself, by its bytes. */
function bytes(token) {
  return (token.bytes ?? []).map((byte) => byte.toString(16).padStart(2, "0")).join(" ") || "(nothing)";
}

customElements.define("kinglet-tokens", Tokens);
