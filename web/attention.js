// Look inside: where each head of a layer looks, and how the next token forms from layer to layer.

import { post } from "./api.js";
import { bar, colour, field, h, heads, newId, number, percent, readable, say } from "./dom.js";
import { Lens } from "./lens.js";
import "./paste.js";
import { notesBox } from "./text.js";
import { named } from "./tokens.js";

/** So many of a token's strongest weights are listed. */
const STRONGEST = 6;

/** So many tokens are listed that a layer expects. */
const GUESSES = 5;

/** A weight of one is 65535 as the server writes it. */
const ONE = 65535;

/** Marks of the scale. Tints go with the root of a weight, else all but the strongest would look like nothing. */
const MARKS = [0.01, 0.05, 0.25, 0.5, 1];

const tintOf = (weight) => Math.sqrt(weight).toFixed(3);

/** A head's weights: those of token `i` at the tokens up to itself begin at `i * (i + 1) / 2`. */
function unpacked(base64) {
  const raw = atob(base64);
  return Float32Array.from({ length: raw.length / 2 }, (_, k) => (raw.charCodeAt(2 * k) | (raw.charCodeAt(2 * k + 1) << 8)) / ONE);
}

/** The page. */
class Attention extends HTMLElement {
  #form = h("kinglet-paste");
  #layer = h("select", { onchange: () => this.#form.again() });
  #heads = h("div", { className: "heads", role: "group", "aria-label": "Heads" });
  #list = h("div", { className: "tokens", role: "listbox", tabindex: "0", "aria-orientation": "horizontal", "aria-label": "The text, token by token" });
  #strongest = h("div", null);
  #square = h("canvas", { role: "img" });
  #about = h("p", { className: "faint small readout" });
  #notes = h("div", { className: "stack" });
  #lens = new Lens((at) => this.#choose(at));
  #empty = h("p", { className: "empty" },
    "Paste a text above and look inside: where each token of it looks, and what each layer of the model expects next.");
  #result = h("div", { className: "stack wide", hidden: true });
  #repaint = () => this.#paint();
  #resized = new ResizeObserver(() => this.#paintSquare());
  #tokens = [];
  #weights = [];
  #images = [];
  #colours = {};
  #head = 0;
  #at = 0;
  #hovered = null;
  #wantedLayer = 0;
  /** What the lens shows already: another layer does not change it. */
  #seen;

  connectedCallback() {
    addEventListener("kinglet-theme", this.#repaint);
    if (this.firstChild) return;
    this.#form.label = "Look inside";
    this.#form.does = "looks";
    this.#form.work = (signal) => this.#work(signal);
    this.#wantedLayer = whole(this.query.get("layer"), 1) - 1;
    this.#head = whole(this.query.get("head"), 1) - 1;
    this.#at = this.query.has("at") ? whole(this.query.get("at"), 1) - 1 : Infinity;
    const layer = field("Layer", this.#layer);
    layer.classList.add("inline");
    const where = h("section", { className: "stack" }, h("h2", null, "Where each token looks"), scale(), this.#list, this.#strongest,
      h("p", { className: "hint small keys" }, key("←"), " ", key("→"), " choose a token, ", key("1"), " to ", key("9"), " a head"));
    const look = h("section", { className: "stack" }, h("div", { className: "row" }, h("h2", { className: "grow" }, "Heads"), layer), this.#heads,
      h("div", { className: "square" }, this.#square), this.#about);
    this.#result.append(this.#notes, h("div", { className: "page look" }, where, look), this.#lens.section);
    this.append(h("div", { className: "stack wide" }, this.#form, this.#empty, this.#result));
    this.#listen();
    this.#form.load(this.query);
  }

  disconnectedCallback() {
    removeEventListener("kinglet-theme", this.#repaint);
    this.#resized.disconnect();
  }

  #listen() {
    this.#list.addEventListener("pointerover", (event) => this.#hover(event.target.closest(".token")?.dataset.at));
    this.#list.addEventListener("pointerleave", () => this.#hover());
    this.#list.addEventListener("click", (event) => this.#choose(event.target.closest(".token")?.dataset.at));
    this.#list.addEventListener("keydown", (event) => this.#key(event));
    this.#square.addEventListener("pointermove", (event) => this.#pointed(event));
    this.#square.addEventListener("pointerleave", () => this.#hover());
    this.#square.addEventListener("click", (event) => this.#choose(this.#cell(event)?.[0]));
    this.#resized.observe(this.#square);
  }

  async #work(signal) {
    const [model, text] = [this.#form.model, this.#form.text];
    const key = JSON.stringify([model.id, text]);
    const isNew = key !== this.#seen;
    const layer = this.#layer.value === "" ? this.#wantedLayer : this.#layer.selectedIndex;
    const most = model.kinglet?.n_layer ?? Infinity;
    const body = { model: model.id, text, layer: Math.min(layer, most - 1) };
    const seeing = isNew && post("/api/lens", { model: model.id, text, top: GUESSES }, signal);
    const [answer, lens] = await Promise.all([post("/api/attention", body, signal), seeing]);
    this.#empty.hidden = true;
    this.#result.hidden = false;
    this.#notes.replaceChildren(...[notesBox(answer.notes)].filter(Boolean));
    this.#tokens = answer.tokens;
    this.#weights = answer.heads.map(unpacked);
    this.#head = Math.min(this.#head, this.#weights.length - 1);
    if (isNew && this.#seen) this.#at = Infinity;
    // The last token but one is where to begin: what follows it is there too.
    this.#at = Math.max(0, this.#at < this.#tokens.length ? this.#at : this.#tokens.length - 2);
    const option = (_, i) => h("option", { value: String(i) }, `Block ${i + 1} of ${answer.n_layer}`);
    this.#layer.replaceChildren(...Array.from({ length: answer.n_layer }, option));
    this.#layer.value = String(answer.layer);
    this.#showText();
    this.#showHeads();
    if (lens) this.#lens.show(lens);
    this.#seen = key;
    this.#choose(this.#at);
    say(`${number(this.#tokens.length)} tokens, ${this.#weights.length} heads of block ${answer.layer + 1}`);
  }

  #showText() {
    this.#list.replaceChildren(...this.#tokens.map((token, at) => {
      const span = h("span", { className: "token", role: "option", id: newId("token"), "aria-selected": "false", "aria-label": named(token) });
      // A token that is only a part of a character is shown by its bytes: each token is to be pointed at.
      const text = token.text && !token.bytes?.length ? readable(token.text) : named(token);
      for (const part of text.split(/(\n)/)) {
        if (part === "\n") span.append(h("span", { className: "end" }), "\n");
        else if (part) span.append(part);
      }
      span.dataset.at = at;
      return span;
    }));
  }

  #showHeads() {
    const had = this.#heads.contains(document.activeElement);
    this.#heads.replaceChildren(...this.#weights.map((_, head) =>
      h("button", { type: "button", "aria-label": `Head ${head + 1}`, "aria-pressed": "false", onclick: () => this.#pick(head) },
        h("canvas", { "aria-hidden": "true" }), h("small", null, String(head + 1)))));
    if (had) this.#heads.children[this.#head].focus();
    this.#paint();
  }

  /** Paints all squares, as after a change of colours. */
  #paint() {
    if (!this.#weights.length || !this.isConnected) return;
    for (const name of ["raised", "accent", "text", "faint"]) this.#colours[name] = colour(name);
    const size = Math.round(48 * devicePixelRatio);
    this.#weights.forEach((weights, head) => {
      const canvas = this.#heads.children[head].firstChild;
      [canvas.width, canvas.height] = [size, size];
      draw(canvas.getContext("2d"), picture(weights, this.#tokens.length, size, this.#colours), 0, size);
    });
    this.#images = [];
    this.#paintSquare();
  }

  /** Paints the large square, with the texts of the tokens beside it if there is room. */
  #paintSquare() {
    const width = this.#square.clientWidth;
    const count = this.#tokens.length;
    if (!width || !count || !this.#colours.text) return;
    const pixels = Math.round(width * devicePixelRatio);
    const context = this.#square.getContext("2d");
    if (this.#square.width !== pixels) [this.#square.width, this.#square.height] = [pixels, pixels];
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, width, width);
    const [margin, cell] = this.#measure(width);
    const side = width - margin;
    this.#images[this.#head] ??= picture(this.#weights[this.#head], count, pixels, this.#colours);
    draw(context, this.#images[this.#head], margin, side);
    const at = this.#now;
    context.strokeStyle = `rgb(${this.#colours.text})`;
    context.strokeRect(margin + 0.5, margin + at * cell + 0.5, Math.max(1, (at + 1) * cell - 1), Math.max(1, cell - 1));
    if (!margin) return;
    context.font = `12px ${getComputedStyle(this.#list).fontFamily}`;
    context.textBaseline = "middle";
    this.#tokens.forEach((token, i) => {
      context.fillStyle = `rgb(${this.#colours[i === at ? "text" : "faint"]})`;
      const [label, middle] = [brief(token), margin + (i + 0.5) * cell];
      context.textAlign = "right";
      context.fillText(label, margin - 6, middle);
      context.save();
      context.translate(middle, margin - 6);
      if ([...label].length > 1) context.rotate(-Math.PI / 2);
      context.textAlign = [...label].length > 1 ? "left" : "center";
      context.fillText(label, 0, [...label].length > 1 ? 0 : -4);
      context.restore();
    });
  }

  /** How much room the texts of the tokens have beside the square, and how large a cell is. */
  #measure(width) {
    const count = this.#tokens.length;
    const longest = Math.max(1, ...this.#tokens.map((token) => [...brief(token)].length));
    const margin = 12 + longest * 7.4;
    const cell = (width - margin) / count;
    return cell >= 12 ? [margin, cell] : [0, width / count];
  }

  /** Which cell an event is at: the token that looks, and where. */
  #cell(event) {
    const { left, top, width } = this.#square.getBoundingClientRect();
    const [margin, cell] = this.#measure(width);
    const [row, column] = [event.clientY - top, event.clientX - left].map((x) => Math.floor((x - margin) / cell));
    return row >= 0 && column >= 0 && row < this.#tokens.length && column <= row ? [row, column] : undefined;
  }

  #pointed(event) {
    const cell = this.#cell(event);
    this.#hover(cell?.[0]);
    if (!cell) return;
    const [row, column] = cell;
    const weight = this.#weights[this.#head][(row * (row + 1)) / 2 + column];
    this.#about.textContent = `${quoted(this.#tokens[row])} (${row + 1}) looks at ${quoted(this.#tokens[column])} (${column + 1}): ${percent(weight)}`;
  }

  /** The token whose weights are shown. */
  get #now() {
    return this.#hovered ?? this.#at;
  }

  #hover(at) {
    const to = at == null ? null : +at;
    if (to === this.#hovered) return;
    this.#hovered = to;
    this.#look();
  }

  #choose(at) {
    if (at == null || !this.#tokens[+at]) return;
    this.#hovered = null;
    this.#at = +at;
    for (const span of this.#list.querySelectorAll('[aria-selected="true"]')) span.setAttribute("aria-selected", "false");
    const span = this.#list.children[this.#at];
    span.setAttribute("aria-selected", "true");
    this.#list.setAttribute("aria-activedescendant", span.id);
    this.#look();
    this.#lens.choose(this.#at);
    this.#remember();
  }

  #pick(head) {
    if (!this.#weights[head]) return;
    this.#head = head;
    this.#look();
    this.#remember();
  }

  /** Shows where the token looks that is pointed at, or chosen. */
  #look() {
    const [at, weights] = [this.#now, this.#weights[this.#head]];
    const row = weights.subarray((at * (at + 1)) / 2, ((at + 1) * (at + 2)) / 2);
    [...this.#list.children].forEach((span, i) => {
      span.style.setProperty("--surprise", i <= at ? tintOf(row[i]) : 0);
      span.classList.toggle("at", i === at);
      span.classList.toggle("unseen-by-model", i > at);
    });
    [...this.#heads.children].forEach((button, head) => button.setAttribute("aria-pressed", String(head === this.#head)));
    this.#square.setAttribute("aria-label", `Attention of head ${this.#head + 1}: a row for each token, a column for each token that it looks at`);
    this.#about.textContent = "Rows are the tokens that look, columns are where. Point at a cell for its weight.";
    this.#listStrongest(at, row);
    this.#paintSquare();
  }

  #listStrongest(at, row) {
    const order = [...row.keys()].sort((a, b) => row[b] - row[a]).slice(0, STRONGEST);
    const rows = order.map((to) => h("tr", null,
      h("td", { className: "number" }, number(to + 1)),
      h("td", { className: "mono" }, h("bdi", null, named(this.#tokens[to])), to === at ? h("span", { className: "faint" }, " itself") : null),
      h("td", { className: "bar-cell" }, bar(row[to])),
      h("td", { className: "number" }, percent(row[to]))));
    const text = h("bdi", { className: "mono" }, quoted(this.#tokens[at]));
    const caption = h("caption", null, "Token ", number(at + 1), ", ", text, `, in head ${this.#head + 1} looks most at`);
    const columns = heads(["Place", "number"], ["Token"], ["As a bar", "unseen"], ["Weight", "number"]);
    this.#strongest.replaceChildren(h("table", { className: "strongest" }, caption, columns, h("tbody", null, ...rows)));
    if (this.#hovered != null || this.#list !== document.activeElement) return;
    const places = order.slice(0, 3).map((to) => `${named(this.#tokens[to])}, place ${to + 1}, ${percent(row[to])}`);
    say(`${named(this.#tokens[at])} looks at ${places.join("; ")}`);
  }

  #key(event) {
    const last = this.#tokens.length - 1;
    const to = { ArrowRight: this.#at + 1, ArrowLeft: this.#at - 1, Home: 0, End: last }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (to !== undefined) {
      event.preventDefault();
      this.#choose(Math.max(0, Math.min(last, to)));
      this.#list.children[this.#at].scrollIntoView({ block: "nearest" });
    } else if (/^[1-9]$/.test(event.key)) {
      this.#pick(event.key - 1);
    }
  }

  #remember() {
    const params = new URLSearchParams();
    this.#form.write(params);
    for (const [name, value] of [["layer", this.#layer.selectedIndex], ["head", this.#head], ["at", this.#at]]) params.set(name, value + 1);
    history.replaceState(null, "", `#attention?${params}`);
  }
}

/** A whole number of an address, at least one. */
function whole(text, usual) {
  const value = Number.parseInt(text, 10);
  return value >= 1 ? value : usual;
}

function quoted(token) {
  return `“${named(token)}”`;
}

/** A token's text where there is little room. */
function brief(token) {
  const chars = [...named(token)];
  return chars.length > 8 ? `${chars.slice(0, 7).join("")}…` : chars.join("");
}

function key(name) {
  return h("kbd", null, name);
}

/** What the tints mean, in numbers. */
function scale() {
  const boxes = MARKS.map((weight) => {
    const box = h("i", null, percent(weight).replace(/\.0+ /, " "));
    box.style.setProperty("--surprise", tintOf(weight));
    return box;
  });
  return h("div", { className: "scale" }, "Weight: ", ...boxes);
}

/**
 * A head as a picture: a row for each token. It has no more than `most` rows; where there are more tokens, each dot has the
 * strongest weight of those that fall on it.
 */
function picture(weights, count, most, { raised: weak, accent: strong }) {
  const side = Math.min(count, most);
  const strongest = new Float32Array(side * side).fill(-1);
  for (let row = 0, k = 0; row < count; row++) {
    const y = Math.floor((row * side) / count);
    for (let column = 0; column <= row; column++, k++) {
      const dot = y * side + Math.floor((column * side) / count);
      if (weights[k] > strongest[dot]) strongest[dot] = weights[k];
    }
  }
  const image = new ImageData(side, side);
  strongest.forEach((weight, dot) => {
    if (weight < 0) return;
    const mix = Math.sqrt(weight);
    for (let c = 0; c < 3; c++) image.data[4 * dot + c] = weak[c] + (strong[c] - weak[c]) * mix;
    image.data[4 * dot + 3] = 255;
  });
  const canvas = h("canvas", { width: side, height: side });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** Draws a picture into a square that begins at `from`. */
function draw(context, image, from, side) {
  context.imageSmoothingEnabled = false;
  context.drawImage(image, from, from, side, side);
}

customElements.define("kinglet-attention", Attention);
