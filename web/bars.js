// Bits per character by line, as bars, with lines for what they are compared with.

import { colour, h, number } from "./dom.js";

/** Bits for people: two digits behind the point. */
export function bits(value) {
  if (value === Infinity) return "∞";
  return value == null || !Number.isFinite(value) ? "–" : value.toFixed(2);
}

const HEIGHT = 128;

/** The room for the numbers of the axis. */
const GUTTER = 20;

/** The dashes of the references, in their order. */
const DASHES = [[], [6, 3], [2, 3]];

/**
 * The bars of lines. Arrow keys walk, Enter or a click chooses: an event `choose` with the lines of that bar.
 * Where there are more lines than room, a bar is several of them.
 */
class LineBars extends HTMLElement {
  #canvas = h("canvas", null);
  #slider = h("div", { className: "bars", role: "slider", tabindex: "0", "aria-label": "Line", "aria-valuemin": "1" }, this.#canvas);
  #about = h("small", { className: "faint bars-about" });
  #legend = h("ul", { className: "plain legend" });
  #lines = [];
  #bars = [];
  #references = [];
  #at = -1;
  #paint = () => this.#draw();
  #resized = new ResizeObserver(this.#paint);

  constructor() {
    super();
    this.#slider.addEventListener("keydown", (event) => this.#key(event));
    this.#canvas.addEventListener("pointermove", (event) => this.#select(this.#under(event)));
    this.#canvas.addEventListener("pointerleave", () => document.activeElement === this.#slider || this.#select(-1));
    this.#canvas.addEventListener("click", (event) => this.#choose(this.#under(event)));
    this.#slider.addEventListener("focus", () => this.#select(Math.max(0, this.#at)));
    this.#slider.addEventListener("blur", () => this.#select(-1));
  }

  connectedCallback() {
    if (!this.firstChild) this.append(this.#slider, this.#about, this.#legend);
    this.classList.add("stack");
    addEventListener("kinglet-theme", this.#paint);
    this.#resized.observe(this.#slider);
  }

  disconnectedCallback() {
    removeEventListener("kinglet-theme", this.#paint);
    this.#resized.disconnect();
  }

  /** Shows lines, as `linesOf` makes them, and references: `{name, bits}`. */
  show(lines, references) {
    [this.#lines, this.#references, this.#at] = [lines, references, -1];
    this.#legend.replaceChildren(...references.map(({ name, bits: at }, i) => {
      const sign = h("i", { className: `dash-${i}` });
      return h("li", null, sign, h("span", { className: "grow" }, name), h("span", { className: "number" }, bits(at)));
    }));
    if (references.length) {
      const how = "Measured on the run's own validation text, and converted by this text's tokens per character.";
      this.#legend.append(h("li", { className: "hint" }, how));
    }
    this.#draw();
    this.#select(-1);
  }

  #group(width) {
    const per = Math.max(1, Math.ceil(this.#lines.length / Math.max(1, Math.floor((width - GUTTER) / 3))));
    this.#bars = [];
    for (let i = 0; i < this.#lines.length; i += per) {
      const lines = this.#lines.slice(i, i + per);
      const sum = (of) => lines.reduce((all, line) => all + of(line), 0);
      const chars = sum((line) => line.chars);
      this.#bars.push({ lines, value: chars ? sum((line) => line.bits) / chars : null });
    }
    this.#slider.setAttribute("aria-valuemax", this.#bars.length);
  }

  #draw() {
    const width = this.#slider.clientWidth;
    if (!width || !this.#lines.length) return;
    this.#group(width);
    const scale = devicePixelRatio;
    [this.#canvas.width, this.#canvas.height] = [Math.round(width * scale), HEIGHT * scale];
    const context = this.#canvas.getContext("2d");
    context.scale(scale, scale);
    const paint = (name) => `rgb(${colour(name)})`;
    const [tint, accent, warn, text, line] = ["tint", "accent", "warn", "text", "line"].map(paint);
    const values = [...this.#bars.map((bar) => bar.value), ...this.#references.map((reference) => reference.bits)].filter(Number.isFinite);
    const most = Math.max(1, ...values) * 1.06;
    const y = (value) => HEIGHT - 1 - (Math.min(value, most) / most) * (HEIGHT - 14);
    const step = (width - GUTTER) / this.#bars.length;
    this.#axis(context, most, y, width, [line, paint("faint")]);
    this.#bars.forEach(({ value }, i) => {
      context.fillStyle = value === Infinity ? warn : i === this.#at ? accent : tint;
      context.globalAlpha = this.#at < 0 || i === this.#at ? 1 : 0.6;
      if (value != null) context.fillRect(GUTTER + i * step, y(value), Math.max(1, step - (step > 4 ? 1 : 0)), HEIGHT - y(value));
    });
    context.globalAlpha = 1;
    context.strokeStyle = text;
    this.#references.forEach((reference, i) => {
      context.setLineDash(DASHES[i]);
      context.beginPath();
      context.moveTo(GUTTER, Math.round(y(reference.bits)) + 0.5);
      context.lineTo(width, Math.round(y(reference.bits)) + 0.5);
      context.stroke();
    });
  }

  /** Whole bits, quietly. */
  #axis(context, most, y, width, [line, faint]) {
    context.font = `12px ${getComputedStyle(this).fontFamily}`;
    context.textAlign = "right";
    context.textBaseline = "middle";
    const step = Math.max(1, Math.ceil(most / 5));
    for (let at = 0; at <= most; at += step) {
      context.fillStyle = line;
      context.fillRect(GUTTER, Math.round(y(at)), width - GUTTER, 1);
      context.fillStyle = faint;
      context.fillText(String(at), GUTTER - 6, Math.min(y(at), HEIGHT - 6));
    }
  }

  #under(event) {
    const { left, width } = this.#canvas.getBoundingClientRect();
    const at = Math.floor(((event.clientX - left - GUTTER) / (width - GUTTER)) * this.#bars.length);
    return Math.max(0, Math.min(this.#bars.length - 1, at));
  }

  #select(at) {
    this.#at = at;
    const bar = this.#bars[at];
    this.#about.textContent = bar ? this.#named(bar) : this.#range();
    this.#slider.setAttribute("aria-valuenow", Math.max(0, at) + 1);
    this.#slider.setAttribute("aria-valuetext", this.#named(this.#bars[Math.max(0, at)]));
    this.#draw();
  }

  #named(bar) {
    if (!bar) return "";
    const [first, last] = [bar.lines[0].number, bar.lines.at(-1).number];
    return `${first === last ? `Line ${number(first)}` : `Lines ${number(first)} to ${number(last)}`}: ${bits(bar.value)} bits per character`;
  }

  #range() {
    const each = this.#bars[0]?.lines.length > 1 ? `, ${this.#bars[0].lines.length} a bar` : "";
    return `${number(this.#lines.length)} ${this.#lines.length === 1 ? "line" : "lines"}${each}. Choose a bar to go there.`;
  }

  #choose(at) {
    if (this.#bars[at]) this.dispatchEvent(new CustomEvent("choose", { detail: this.#bars[at].lines }));
  }

  #key(event) {
    const last = this.#bars.length - 1;
    const to = { ArrowRight: this.#at + 1, ArrowUp: this.#at + 1, ArrowLeft: this.#at - 1, ArrowDown: this.#at - 1, Home: 0, End: last }[event.key];
    if (to !== undefined) this.#select(Math.max(0, Math.min(last, to)));
    else if (event.key === "Enter" || event.key === " ") this.#choose(this.#at);
    else return;
    event.preventDefault();
  }
}

customElements.define("kinglet-bars", LineBars);
