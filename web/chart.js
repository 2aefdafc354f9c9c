// Curves on a canvas: axes (linear or logarithmic), bands, points, marks, lines of reference, a crosshair and a zoom.
// A chart draws only when something has changed; the crosshair is an element of its own, so that it costs no drawing.

import { clipped, duration, h, newId, number, oneLine, say, short } from "./dom.js";

const MARGIN = { left: 52, right: 14, top: 18, bottom: 24 };
const HUES = 8;
const DASHES = [[], [8, 4], [2, 2], [10, 3, 2, 3], [4, 2], [16, 4], [7, 2, 2, 2, 2, 2], [3, 5]];
const ROWS = 50;
const MOST_MARKS = 40;
const LABEL = 16;
/** So many pixels from the crosshair a point is still near it. */
const NEAR = 12;
/** Where an axis is calm, this share of the values has its place for certain. */
const USUAL = 0.96;

/** How the curve number `slot` looks: the name of its colour, and its dashes. The first 64 are all different. */
export function look(slot) {
  return { color: `--curve-${slot % HUES}`, dash: DASHES[(slot + 3 * Math.floor(slot / HUES)) % DASHES.length] };
}

/** A short piece of a curve, for a table that is its legend. */
export function swatch(slot) {
  const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const { color, dash } = look(slot);
  line.setAttribute("class", "swatch");
  line.setAttribute("viewBox", "0 0 32 8");
  line.setAttribute("aria-hidden", "true");
  path.setAttribute("d", "M0 4H32");
  if (dash.length) path.setAttribute("stroke-dasharray", dash.join(" "));
  line.style.setProperty("--curve", `var(${color})`);
  line.append(path);
  return line;
}

/** Where values are on an axis, and back. */
function scale([low, high], log, from, to) {
  const a = log ? Math.log(low) : low;
  const size = (log ? Math.log(high) : high) - a || 1;
  const per = (to - from) / size;
  return {
    at: (value) => from + ((log ? Math.log(value) : value) - a) * per,
    back: (place) => (log ? Math.exp(a + (place - from) / per) : a + (place - from) / per),
  };
}

/** Round numbers within a range, about so many; at least two, as one alone is no scale. */
function ticks(range, log, count) {
  for (let more = count; more < 64; more *= 1.5) {
    const found = round(range, log, more);
    if (found.length > 1) return found;
  }
  return round(range, false, 8);
}

function round([low, high], log, count) {
  if (log && high / low >= 30) return decades(low, high, count);
  const rough = (high - low) / count;
  if (!(rough > 0)) return [low];
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find((times) => times * size >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(+(i * step).toPrecision(12));
  // Few of them, or many at the upper end, are no help on a logarithmic axis: the range is too wide for equal steps.
  return log && high / low > 4 ? decades(low, high, count) : found;
}

/** Round times within a range of seconds, about so many. */
function times([low, high], count) {
  const rough = (high - low) / count;
  const step = CLOCK.find((step) => step >= rough);
  if (rough < 1 || !step) return ticks([low, high], false, count);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(value);
  return found.length > 1 || count > 16 ? found : times([low, high], count * 1.5);
}

const CLOCK = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

function decades(low, high, count) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const every = Math.max(1, Math.ceil((last - first) / count));
  const within = last - first <= 1 ? [1, 1.5, 2, 3, 4, 5, 7] : last - first <= 3 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = first; power <= last; power += every) {
    for (const times of within) {
      const value = +(times * 10 ** power).toPrecision(12);
      if (value >= low * 0.9999 && value <= high * 1.0001) found.push(value);
    }
  }
  return found;
}

/** The first index whose x is at least this. */
function firstFrom(xs, x) {
  let [low, high] = [0, xs.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(xs, x) {
  const right = firstFrom(xs, x);
  if (right === 0) return 0;
  if (right === xs.length) return right - 1;
  return x - xs[right - 1] < xs[right] - x ? right - 1 : right;
}

/**
 * A chart. `show(data)` is what it shows:
 *
 * - `title`, `about`: its name, and what it shows, in words.
 * - `x`, `y`: `{label, log}`: the axes. Of x also `time` (it is in seconds), `whole` (it has no fractions), `names` (these are in the place
 *   of the numbers 0, 1, …), `domain` (its range, where the series do not say it), `pad` (points on the edge get some room). Of y also
 *   `calm`: few high values may have no place, and it is said how many.
 * - `series`: `{name, part, slot, x, y, low, high, line, points, quiet}`; x ascends, what is null is a gap.
 * - `lines`: `{y, label}`: lines of reference. `marks`: `{x, slot, text}`. `hint`: how to use it. `follows`: others have the button for all.
 *
 * Events: `view` (`detail`: the range of x, or null for all) when the person zooms, `point` (`detail`: an x, or null) with the crosshair.
 */
export class Chart extends HTMLElement {
  #data = { series: [], lines: [], marks: [], x: {}, y: {} };
  #view = null;
  #at = null;
  #due = 0;
  #colors = {};
  #drag = null;
  #painted = () => this.#repaint();
  #canvas = h("canvas", { "aria-hidden": "true" });
  #rule = h("div", { className: "rule", hidden: true });
  #brush = h("div", { className: "brush", hidden: true });
  #probe = h("i", { hidden: true });
  #plot = h("div", { className: "plot", role: "slider", tabindex: "0", "aria-label": "Curves", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "0" });
  #readout = h("div", { className: "readout", hidden: true });
  #marks = h("div", { className: "marks", role: "group" });
  /** A chart has no name before its data come, and screen readers would announce a heading that is empty. */
  #title = h("h3", { hidden: true });
  #reset = h("button", { type: "button", className: "quiet", hidden: true, onclick: () => this.#zoom(null) }, "Show all");
  #left = h("small", { className: "faint" });
  #rows = h("details", { ontoggle: () => this.#tabulate() }, h("summary", { className: "small" }, "As a table"));
  /** The size of the plot and whether it is in the window, as the browser tells them: asking for them would cost a layout. */
  #size = [0, 0];
  #inView = false;
  #font = "";
  #sizes = new ResizeObserver(([{ contentRect }]) => {
    this.#size = [contentRect.width, contentRect.height];
    this.#later();
  });
  #views = new IntersectionObserver((entries) => {
    this.#inView = entries.at(-1).isIntersecting;
    if (this.#stale) this.#later();
  });
  #stale = true;

  connectedCallback() {
    if (!this.firstChild) {
      this.#plot.append(this.#canvas, this.#brush, this.#rule, this.#probe);
      const area = h("div", { className: "area" }, this.#plot, this.#marks, this.#readout);
      this.append(h("div", { className: "row" }, this.#title, this.#left, this.#reset), area, this.#rows);
      this.#listen();
    }
    addEventListener("kinglet-theme", this.#painted);
    this.#sizes.observe(this.#plot);
    this.#views.observe(this);
  }

  disconnectedCallback() {
    removeEventListener("kinglet-theme", this.#painted);
    this.#sizes.disconnect();
    this.#views.disconnect();
    cancelAnimationFrame(this.#due);
    this.#due = 0;
  }

  /** Shows this from now on. */
  show(data) {
    this.#data = { lines: [], marks: [], ...data };
    if (this.#title.textContent !== data.title) this.#title.textContent = data.title;
    this.#title.hidden = false;
    // One that is out of the window is not drawn yet, but it has a name.
    if (this.#plot.getAttribute("aria-label") === "Curves") this.#plot.setAttribute("aria-label", `${data.title}: ${data.about}`);
    this.#later();
  }

  /** The range of x that is looked at; null is all of it. */
  get view() {
    return this.#view;
  }

  set view(view) {
    this.#view = view;
    this.#later();
  }

  /** The x of the crosshair; null is none. Only the chart where the person is shows the values. */
  set point(x) {
    this.#at = x;
    this.#cross(false);
  }

  /** The keyboard goes on in the chart. */
  focus(options) {
    this.#plot.focus(options);
  }

  /** How long the last drawing took, in milliseconds. */
  took = 0;

  #repaint() {
    this.#colors = {};
    this.#later();
  }

  #later() {
    this.#stale = true;
    if (this.isConnected && this.#inView) this.#due ||= requestAnimationFrame(() => this.#draw());
  }

  /** A colour of the style sheet, as the canvas wants it. */
  #color(name) {
    if (!this.#colors[name]) {
      this.#probe.style.setProperty("color", `var(${name})`);
      this.#colors[name] = getComputedStyle(this.#probe).color;
    }
    return this.#colors[name];
  }

  /** The range of all x, with a margin where there is but one, or where points would stand on the edge. */
  #wholeX() {
    let [low, high] = [Infinity, -Infinity];
    const { domain } = this.#data.x;
    if (domain && !(this.#data.x.log && domain[0] <= 0) && domain[0] < domain[1]) return domain;
    for (const { x } of this.#data.series) {
      const first = this.#data.x.log ? x.find((value) => value > 0) : x[0];
      if (first < low) low = first;
      if (x.at(-1) > high) high = x.at(-1);
    }
    if (!(low <= high)) return this.#data.x.log ? [1, 10] : [0, 1];
    if (this.#data.x.pad || low === high) return this.#padded([low, high], this.#data.x.log, low === high ? 0.5 : 0.06);
    return [low, high];
  }

  #padded([low, high], log, share) {
    if (log) {
      const by = (high / low) ** share;
      return by > 1 ? [low / by, high * by] : [low / 2, high * 2];
    }
    const by = (high - low) * share || Math.abs(high) * share || 1;
    return [low - by, high + by];
  }

  /** The range of the values that are seen. Bands do not count: one wild step would press everything flat. */
  #rangeY([from, to]) {
    const { log, calm } = this.#data.y;
    const seen = [];
    const see = (value) => value !== null && Number.isFinite(value) && !(log && value <= 0) && seen.push(value);
    for (const { x, y } of this.#data.series) {
      const end = firstFrom(x, to);
      for (let i = firstFrom(x, from); i <= end && i < x.length; i++) if (x[i] <= to) see(y[i]);
    }
    const sorted = Float64Array.from(seen).sort();
    let [low, high] = sorted.length ? [sorted[0], sorted.at(-1)] : log ? [1, 10] : [0, 1];
    const most = calm ? sorted[Math.floor((sorted.length - 1) * USUAL)] : high;
    if (high - low > 1.5 * (most - low) && most > low) high = most;
    this.#above = sorted.length - firstFrom(sorted, high + 1e-12 * Math.abs(high));
    for (const { y } of this.#view || !sorted.length ? [] : this.#data.lines) if (y > 0 || !log) [low, high] = [Math.min(low, y), Math.max(high, y)];
    return this.#padded([low, high], log, 0.05);
  }

  #draw() {
    this.#due = 0;
    const began = performance.now();
    const [width, height] = this.#size;
    if (width < 80 || height < 60) return;
    this.#stale = false;
    const ratio = devicePixelRatio || 1;
    const [w, tall] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.#canvas.width !== w || this.#canvas.height !== tall) Object.assign(this.#canvas, { width: w, height: tall });
    const placeless = this.#data.x.log && this.#view?.[0] <= 0;
    const range = (!placeless && this.#view) || this.#wholeX();
    const values = this.#rangeY(range);
    const pen = this.#canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = `12px ${(this.#font ||= getComputedStyle(this).fontFamily)}`;
    const [top, bottom] = [MARGIN.top, height - MARGIN.bottom];
    const steps = ticks(values, this.#data.y.log, Math.max(3, (bottom - top) / 48));
    const widest = Math.max(...steps.map((value) => pen.measureText(tickText(value)).width));
    const box = { left: Math.max(MARGIN.left, Math.ceil(widest) + 12), right: width - MARGIN.right, top, bottom };
    const x = scale(range, this.#data.x.log, box.left, box.right);
    const y = scale(values, this.#data.y.log, box.bottom, box.top);
    this.#frame = { box, range, values, x, y, steps };
    pen.clearRect(0, 0, width, height);
    this.#axes(pen);
    pen.save();
    pen.beginPath();
    pen.rect(box.left, box.top - 4, box.right - box.left, box.bottom - box.top + 8);
    pen.clip();
    this.#data.series.forEach((series) => this.#band(pen, series));
    this.#data.series.forEach((series) => this.#curve(pen, series));
    this.#references(pen);
    pen.restore();
    this.took = performance.now() - began;
    this.#around();
  }

  #frame = null;
  #above = 0;

  /** What stands about the drawing: its name, its marks, the crosshair, its table. */
  #around() {
    const { range } = this.#frame;
    const reset = !this.#view || !!this.#data.follows;
    if (this.#reset.hidden !== reset) this.#reset.hidden = reset;
    this.#say();
    const keys = "Arrow keys move the crosshair, plus and minus zoom, 0 shows all.";
    const { about, title, x } = this.#data;
    const label = `${title}: ${about} ${x.label} ${this.#text(x, range[0])} to ${this.#text(x, range[1])}. ${keys}`;
    if (this.#plot.getAttribute("aria-label") !== label) this.#plot.setAttribute("aria-label", label);
    this.#flags();
    this.#cross(!this.#readout.hidden);
    if (this.#rows.open) this.#tabulate();
  }

  /** Beside the name: what is left out, with how much it is; or how to use the chart. */
  #say() {
    const gone = this.#unseen();
    const notes = [
      this.#above && `${number(this.#above)} higher ${this.#above === 1 ? "value is" : "values are"} not shown`,
      gone && `${number(gone)} ${gone === 1 ? "point is" : "points are"} not above 0, with no place on a logarithmic axis`,
    ].filter(Boolean);
    const text = [this.#data.y.label, ...notes, this.#data.hint].filter(Boolean).join(" · ");
    if (this.#left.textContent !== text) this.#left.textContent = this.#left.title = text;
  }

  /** How many points a logarithmic axis cannot show. */
  #unseen() {
    const { series, x, y } = this.#data;
    if (!x.log && !y.log) return 0;
    const hidden = (one, i) => (y.log && one.y[i] !== null && one.y[i] <= 0) || (x.log && one.x[i] <= 0);
    return series.reduce((sum, one) => sum + one.x.reduce((n, _, i) => n + (hidden(one, i) ? 1 : 0), 0), 0);
  }

  #text(axis, value) {
    if (axis.names) return oneLine(axis.names[Math.round(value)] ?? "");
    if (axis.time) return duration(value);
    const whole = axis.whole ? Math.round(value) : value;
    return Math.abs(whole) >= 1e6 ? short(whole) : number(whole, 5);
  }

  #axes(pen) {
    const { box, range, x, y, steps } = this.#frame;
    pen.lineWidth = 1;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    let above = Infinity;
    for (const value of steps) {
      const place = Math.round(y.at(value)) + 0.5;
      pen.strokeStyle = this.#color("--line");
      pen.globalAlpha = 0.6;
      line(pen, box.left, place, box.right, place);
      pen.globalAlpha = 1;
      pen.fillStyle = this.#color("--faint");
      if (above - place >= 14) {
        pen.fillText(tickText(value), box.left - 8, place);
        above = place;
      }
    }
    pen.strokeStyle = this.#color("--edge");
    line(pen, box.left, box.bottom + 0.5, box.right, box.bottom + 0.5);
    pen.textBaseline = "top";
    pen.textAlign = "center";
    const { names, log, time } = this.#data.x;
    const wide = names ? 48 : time ? 96 : 72;
    const count = Math.max(2, (box.right - box.left) / wide);
    const places = names ? names.map((_, i) => i) : time && !log ? times(range, count) : ticks(range, log, count);
    let before = -Infinity;
    for (const value of places) {
      const place = x.at(value);
      if (place < box.left - 1 || place > box.right + 1) continue;
      line(pen, Math.round(place) + 0.5, box.bottom, Math.round(place) + 0.5, box.bottom + 4);
      const text = names ? clipped(oneLine(names[value]), 12) : time ? duration(value).replace(/(\D) 0 (s|min|h)$/, "$1") : tickText(value);
      const half = pen.measureText(text).width / 2;
      const middle = Math.max(box.left, Math.min(place, box.right + MARGIN.right - half));
      if (middle - half < before + 8) continue;
      before = middle + half;
      pen.fillText(text, middle, box.bottom + 7);
    }
  }

  #references(pen) {
    const { box, values, y } = this.#frame;
    const seen = this.#data.lines.filter(({ y: value }) => value >= values[0] && value <= values[1]);
    pen.strokeStyle = this.#color("--edge");
    pen.lineWidth = 1;
    pen.setLineDash([1, 3]);
    for (const { y: value } of seen) {
      const place = Math.round(y.at(value)) + 0.5;
      line(pen, box.left, place, box.right, place);
    }
    pen.setLineDash([]);
    this.#labels(pen, seen);
  }

  /** The names of the lines of reference: each on a ground of its own, above its line or below it, or as near as there is room. */
  #labels(pen, lines) {
    const { box, y } = this.#frame;
    const taken = [];
    const free = (top) => top >= box.top && top + LABEL <= box.bottom && taken.every((other) => Math.abs(other - top) >= LABEL);
    const letters = Math.floor((box.right - box.left) / 7);
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const { y: value, label } of lines.toSorted((a, b) => b.y - a.y)) {
      const place = y.at(value);
      const top = [-LABEL - 2, 2, ...[1, 2].flatMap((n) => [2 + n * LABEL, -2 - (n + 1) * LABEL])].map((by) => place + by).find(free);
      if (top === undefined) continue;
      taken.push(top);
      const text = clipped(oneLine(label), Math.min(80, letters));
      const wide = pen.measureText(text).width + 8;
      pen.fillStyle = this.#color("--ground");
      pen.fillRect(box.right - wide, top, wide, LABEL);
      pen.fillStyle = this.#color("--faint");
      pen.fillText(text, box.right - 4, top + LABEL / 2);
    }
  }

  /** The indices of a series that are seen, and one on each side, so that lines go on to the edge. */
  #seen({ x }) {
    const [from, to] = this.#frame.range;
    return [Math.max(0, firstFrom(x, from) - 1), Math.min(x.length - 1, firstFrom(x, to))];
  }

  #shows(x, y) {
    return y !== null && Number.isFinite(y) && Number.isFinite(x) && !(this.#data.y.log && y <= 0) && !(this.#data.x.log && x <= 0);
  }

  #band(pen, series) {
    if (!series.low) return;
    const { x, y, values } = this.#frame;
    const [first, last] = this.#seen(series);
    pen.fillStyle = this.#color(look(series.slot).color);
    // Many bands above each other would hide the curves.
    pen.globalAlpha = Math.min(0.18, 0.48 / this.#data.series.length);
    const within = (value) => y.at(Math.max(values[0] / 2, value));
    for (let i = first; i <= last; i++) {
      if (!this.#shows(series.x[i], series.low[i])) continue;
      let end = i;
      while (end < last && this.#shows(series.x[end + 1], series.low[end + 1])) end += 1;
      pen.beginPath();
      for (let k = i; k <= end; k++) pen.lineTo(x.at(series.x[k]), within(series.high[k]));
      for (let k = end; k >= i; k--) pen.lineTo(x.at(series.x[k]), within(series.low[k]));
      pen.fill();
      i = end;
    }
    pen.globalAlpha = 1;
  }

  #curve(pen, series) {
    const { x, y } = this.#frame;
    const [first, last] = this.#seen(series);
    const { color, dash } = look(series.slot);
    pen.strokeStyle = pen.fillStyle = this.#color(color);
    if (series.line !== false) {
      pen.globalAlpha = series.quiet ? 0.7 : 1;
      pen.lineWidth = series.quiet ? 1 : 1.75;
      pen.setLineDash(dash);
      pen.beginPath();
      let on = false;
      for (let i = first; i <= last; i++) {
        if (this.#shows(series.x[i], series.y[i])) {
          if (on) pen.lineTo(x.at(series.x[i]), y.at(series.y[i]));
          else pen.moveTo(x.at(series.x[i]), y.at(series.y[i]));
          on = true;
        } else on = false;
      }
      pen.stroke();
      pen.setLineDash([]);
      pen.globalAlpha = 1;
    }
    if (series.points) this.#dots(pen, series, first, last);
  }

  /** Points: few enough that each is seen. */
  #dots(pen, series, first, last) {
    const { x, y } = this.#frame;
    const apart = series.line === false ? 0 : 12;
    let before = -Infinity;
    pen.globalAlpha = series.quiet ? 0.5 : 1;
    pen.beginPath();
    for (let i = first; i <= last; i++) {
      if (!this.#shows(series.x[i], series.y[i])) continue;
      const place = x.at(series.x[i]);
      if (place - before < apart && i < last) continue;
      before = place;
      const level = y.at(series.y[i]);
      pen.moveTo(place + 2.5, level);
      pen.arc(place, level, 2.5, 0, 2 * Math.PI);
    }
    pen.fill();
    pen.globalAlpha = 1;
  }

  /** The marks above the drawing: one may be reached by the tab key, the arrow keys walk on from it. */
  #flags() {
    const { box, range, x } = this.#frame;
    const seen = this.#data.marks.filter((mark) => mark.x >= range[0] && mark.x <= range[1]);
    const shown = seen.slice(-MOST_MARKS);
    const held = [...this.#marks.children].indexOf(document.activeElement);
    const key = JSON.stringify([shown, box, range]);
    if (key === this.#flagged) return;
    this.#flagged = key;
    this.#marks.setAttribute("aria-label", `${this.#data.title}: events`);
    this.#marks.hidden = !shown.length;
    const flags = shown.map((mark, i) => {
      const flag = h("button", { type: "button", className: "flag", tabindex: i ? "-1" : "0", "aria-label": clipped(oneLine(mark.text), 300) }, "▾");
      flag.style.setProperty("left", `${x.at(mark.x)}px`);
      flag.style.setProperty("color", `var(${look(mark.slot).color})`);
      const tell = () => this.#tell(mark);
      flag.addEventListener("pointerenter", tell);
      flag.addEventListener("focus", tell);
      flag.addEventListener("click", tell);
      flag.addEventListener("pointerleave", () => this.#leave());
      flag.addEventListener("blur", () => this.#leave());
      return flag;
    });
    this.#marks.replaceChildren(...flags);
    if (held >= 0) flags[Math.min(held, flags.length - 1)]?.focus();
  }

  #flagged = "";

  #tell(mark) {
    this.#readout.replaceChildren(h("div", { className: "told" }, swatch(mark.slot), h("span", null, clipped(oneLine(mark.text), 300))));
    this.#readout.hidden = false;
    this.#place(this.#frame.x.at(mark.x));
  }

  #place(left) {
    const { box } = this.#frame;
    const wide = this.#plot.clientWidth;
    if (wide < 480) {
      for (const [name, value] of [
        ["left", "0"],
        ["right", "auto"],
        ["max-width", "100%"],
      ])
        this.#readout.style.setProperty(name, value);
      return;
    }
    const onRight = left < (box.left + box.right) / 2;
    this.#readout.style.setProperty("left", onRight ? `${left + 12}px` : "auto");
    this.#readout.style.setProperty("right", onRight ? "auto" : `${wide - left + 12}px`);
    this.#readout.style.setProperty("max-width", `${Math.max(160, onRight ? wide - left - 12 : left - 12)}px`);
  }

  /** Moves the crosshair; `values` shows what the curves are there. */
  #cross(values) {
    const frame = this.#frame;
    const seen = frame && this.#at !== null && this.#at >= frame.range[0] && this.#at <= frame.range[1];
    this.#rule.hidden = !seen;
    if (!seen || !values) this.#readout.hidden = true;
    if (!seen) return;
    const place = frame.x.at(this.#at);
    this.#rule.style.setProperty("transform", `translateX(${place}px)`);
    this.#plot.setAttribute("aria-valuenow", String(Math.round(((place - frame.box.left) / (frame.box.right - frame.box.left)) * 100)));
    if (!values) return;
    const { x } = this.#data;
    const rows = this.#values(this.#at);
    this.#plot.setAttribute("aria-valuetext", [`${x.label} ${this.#text(x, this.#at)}`, ...rows.map((row) => row.spoken)].join("; "));
    this.#readout.replaceChildren(h("strong", null, `${x.label} ${this.#text(x, this.#at)}`), ...rows.map((row) => row.shown));
    this.#readout.hidden = false;
    this.#place(place);
  }

  /** What the curves are at an x: a row for each name, with its parts behind each other. */
  #values(at) {
    const rows = new Map();
    for (const series of this.#data.series) {
      const found = this.#nearby(series, at);
      if (!found) continue;
      const row = rows.get(series.name) ?? rows.set(series.name, { slot: series.slot, parts: [] }).get(series.name);
      row.parts.push(`${series.part ? `${series.part} ` : ""}${number(found.y, 5)}${found.told}`);
    }
    return [...rows].map(([name, { slot, parts }]) => ({
      spoken: `${oneLine(name)}: ${parts.join(", ")}`,
      shown: h(
        "div",
        { className: "told" },
        swatch(slot),
        h("bdi", null, clipped(oneLine(name), 40)),
        h("span", { className: "number" }, parts.join(" · ")),
      ),
    }));
  }

  /**
   * What a curve is near an x: nothing beyond its ends, and of single points nothing that is not near on the screen. Where it is
   * the value of another place, that is said.
   */
  #nearby({ x, y, points }, at) {
    if (!x.length) return null;
    const i = nearest(x, at);
    const away = Math.abs(this.#frame.x.at(x[i]) - this.#frame.x.at(at));
    if (points ? away > NEAR : at < x[0] || at > x.at(-1)) return null;
    const { x: axis } = this.#data;
    const other = points ? x[i] !== at : away > NEAR;
    return { y: y[i], told: other ? ` at ${axis.label} ${this.#text(axis, x[i])}` : "" };
  }

  #listen() {
    const plot = this.#plot;
    plot.addEventListener("pointermove", (event) => this.#move(event));
    plot.addEventListener("pointerdown", (event) => this.#down(event));
    plot.addEventListener("pointerup", (event) => this.#up(event));
    plot.addEventListener("pointercancel", () => this.#stop());
    plot.addEventListener("pointerleave", () => this.#drag === null && this.#leave());
    plot.addEventListener("dblclick", () => this.#zoom(null));
    plot.addEventListener("keydown", (event) => this.#key(event));
    plot.addEventListener("blur", () => this.#leave());
    this.#marks.addEventListener("keydown", (event) => {
      const flags = [...this.#marks.children];
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      flags[flags.indexOf(event.target) + by]?.focus();
    });
  }

  #leave() {
    this.#readout.hidden = true;
    this.#set(null);
  }

  #set(x) {
    this.#at = x;
    this.#cross(x !== null);
    this.dispatchEvent(new CustomEvent("point", { detail: x }));
  }

  #zoom(view) {
    const before = JSON.stringify(this.#view);
    this.view = view && this.#held(view);
    if (JSON.stringify(this.#view) === before) {
      if (view) say("This is as near as it goes");
      return;
    }
    const { x } = this.#data;
    say(this.#view ? `Zoomed: ${x.label} ${this.#text(x, this.#view[0])} to ${this.#text(x, this.#view[1])}` : "All is shown");
    this.dispatchEvent(new CustomEvent("view", { detail: this.#view }));
  }

  /** A range within what there is, and not narrower than the axis can tell apart; null if it is all. */
  #held([from, to]) {
    const [low, high] = this.#wholeX();
    const least = this.#data.x.whole ? 2 : (high - low) * 1e-6;
    const [a, b] = [Math.max(low, from), Math.min(high, to)];
    if ((a <= low && b >= high) || high - low <= least) return null;
    if (b - a >= least) return [a, b];
    const begin = Math.max(low, Math.min(high - least, (a + b - least) / 2));
    return [begin, begin + least];
  }

  /** The x under a pointer. */
  #under(event) {
    const { box, x } = this.#frame;
    const place = event.clientX - this.#plot.getBoundingClientRect().left;
    return x.back(Math.max(box.left, Math.min(box.right, place)));
  }

  /** Where the crosshair stops: at the points of the curve that has most. */
  #guide() {
    return this.#data.series.reduce((most, { x }) => (x.length > most.length ? x : most), []);
  }

  #move(event) {
    if (!this.#frame) return;
    const x = this.#under(event);
    if (this.#drag !== null) {
      const [a, b] = [this.#drag, x].map(this.#frame.x.at).sort((one, other) => one - other);
      this.#brush.hidden = b - a < 4;
      this.#brush.style.setProperty("left", `${a}px`);
      this.#brush.style.setProperty("width", `${b - a}px`);
    }
    const guide = this.#guide();
    if (guide.length) this.#set(guide[nearest(guide, x)]);
  }

  #down(event) {
    if (event.button || !this.#frame) return;
    this.#drag = this.#under(event);
    this.#plot.setPointerCapture(event.pointerId);
  }

  #up(event) {
    const from = this.#drag;
    const far = !this.#brush.hidden;
    this.#stop();
    if (from === null || !far) return;
    const to = this.#under(event);
    this.#zoom([Math.min(from, to), Math.max(from, to)]);
  }

  #stop() {
    this.#drag = null;
    this.#brush.hidden = true;
  }

  #key(event) {
    if (!this.#frame || event.ctrlKey || event.metaKey || event.altKey) return;
    const guide = this.#guide();
    const [from, to] = this.#frame.range;
    const here = guide.length ? nearest(guide, this.#at ?? (from + to) / 2) : 0;
    const far = event.shiftKey ? 10 : 1;
    const [first, last] = [firstFrom(guide, from), Math.max(0, firstFrom(guide, to + 1e-9) - 1)];
    const steps = {
      ArrowRight: here + far,
      ArrowLeft: here - far,
      ArrowUp: here + far,
      ArrowDown: here - far,
      PageUp: here + 10,
      PageDown: here - 10,
      Home: first,
      End: last,
    };
    if (event.key in steps && guide.length) this.#walk(guide[Math.max(0, Math.min(guide.length - 1, steps[event.key]))]);
    else if (event.key === "+" || event.key === "=") this.#zoom(this.#closer(0.5));
    else if (event.key === "-") this.#zoom(this.#view && this.#closer(2));
    else if (event.key === "0" || (event.key === "Escape" && (this.#view || this.#drag !== null))) {
      this.#stop();
      this.#zoom(null);
    } else return;
    event.preventDefault();
  }

  /** The range about the crosshair, so many times as wide. */
  #closer(times) {
    const { box, x } = this.#frame;
    const middle = x.at(this.#at ?? x.back((box.left + box.right) / 2));
    return [x.back(middle - (middle - box.left) * times), x.back(middle + (box.right - middle) * times)];
  }

  /** Moves the crosshair by the keyboard; what is seen goes with it. */
  #walk(to) {
    const [low, high] = this.#frame.range;
    if (this.#view && (to < low || to > high)) {
      const by = to < low ? to - low : to - high;
      this.#zoom([low + by, high + by]);
    }
    this.#set(to);
  }

  /** What is seen, as a table: at most fifty rows, evenly over the range. */
  #tabulate() {
    if (!this.#rows.open || !this.#frame) return;
    const { series, x } = this.#data;
    const [from, to] = this.#frame.range;
    const { places, all } = rowsOf(series, from, to);
    const head = series.map(({ name, part }) =>
      h("th", { scope: "col", className: "number" }, h("bdi", null, clipped(oneLine(name), 40)), part ? ` ${part}` : ""),
    );
    const rows = places.map((place) =>
      h(
        "tr",
        null,
        h("th", { scope: "row" }, this.#text(x, place)),
        series.map((one) => h("td", { className: "number" }, number(exactly(one, place), 5))),
      ),
    );
    const about = h(
      "caption",
      { className: "notes" },
      `${places.length < all ? `${number(places.length)} of ${number(all)} points` : "All points"} that are seen; – is a place where a curve has none.`,
    );
    const table = h("table", null, about, h("thead", null, h("tr", null, h("th", { scope: "col" }, x.label), head)), h("tbody", null, rows));
    this.#rows.querySelector(".table")?.remove();
    this.#rows.append(
      h("div", { className: "table", tabindex: "0", role: "group", "aria-label": `${this.#data.title} as a table`, id: newId("rows") }, table),
    );
  }
}

/** The value at a place, if a curve has one there. */
function exactly({ x, y }, place) {
  const i = nearest(x, place);
  return x[i] === place ? y[i] : null;
}

/** The places of a table's rows, evenly over what is seen: those that most curves have, of lines and of single points half each. */
function rowsOf(series, from, to) {
  const kinds = [true, false].map((points) => series.filter((one) => !!one.points === points)).filter((some) => some.some(({ x }) => x.length));
  const everywhere = new Set();
  const chosen = kinds.flatMap((some) => {
    const counts = new Map();
    for (const { x } of some) for (const place of x) if (place >= from && place <= to) counts.set(place, (counts.get(place) ?? 0) + 1);
    const places = [...counts.keys()].sort((a, b) => a - b);
    places.forEach((place) => everywhere.add(place));
    const size = Math.max(1, places.length / (ROWS / kinds.length));
    const rows = [];
    for (let end = places.length; end > 0.5; end -= size) {
      const some = places.slice(Math.round(Math.max(0, end - size)), Math.round(end));
      if (some.length) rows.push(some.reduceRight((best, place) => (counts.get(place) > counts.get(best) ? place : best)));
    }
    return rows;
  });
  return { places: [...new Set(chosen)].sort((a, b) => a - b), all: everywhere.size };
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function tickText(value) {
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential();
  return Math.abs(value) >= 1e5 ? short(value) : value.toLocaleString("en", { maximumSignificantDigits: 8 });
}

/** Charts that have their x in common: what one is zoomed to, all are, and the crosshair is in all. */
export function together(charts) {
  for (const chart of charts) {
    chart.addEventListener("view", ({ detail }) => charts.forEach((other) => other !== chart && (other.view = detail)));
    chart.addEventListener("point", ({ detail }) => charts.forEach((other) => other !== chart && (other.point = detail)));
  }
}

customElements.define("kinglet-chart", Chart);
