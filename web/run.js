// One run: what its curves are made of, and what it wrote; and a tuning with its trials.

import { get, path } from "./api.js";
import { clipped, field, h, number, oneLine, readable, say, stillness } from "./dom.js";
import { swatch } from "./chart.js";

/** So many spans of steps are asked for. */
const POINTS = 300;

const MEANS = ["loss", "lr", "grad_norm", "tokens_per_s"];
const LEASTS = ["loss_min"];
const MOSTS = ["loss_max", "grad_norm_max"];

/**
 * What is known of a run's course. Its steps are spans: `steps.step` has the last step of each. New steps come one by one and are
 * joined to spans as wide as the others, and all spans are joined in pairs once there are twice as many as were asked for.
 */
export class History {
  steps = { step: [] };
  estimates = { step: [], val_loss: [] };
  marks = [];
  floor = null;
  baseline = null;
  /** What the list of runs said when this was read. */
  seen = null;
  error = null;
  /** A part of the course, finer than the whole: `{from, to, steps}`. */
  part = null;
  #cursor = null;
  #width = 1;
  /** Whether there is nothing finer than `steps`. */
  #all = false;

  constructor(id) {
    this.id = id;
  }

  /** What has happened: the marks that the server knows, and where the training loss was no number. */
  get events() {
    const { step, loss = [] } = this.steps;
    const at = loss.findIndex((value) => value === null);
    if (at < 0) return this.marks;
    const first = (step[at - 1] ?? step[at] - 1) + 1;
    const where = first < step[at] ? `in steps ${number(first)} to ${number(step[at])}` : `from step ${number(first)}`;
    return [...this.marks, { step: step[at], kind: "not_a_number", text: `loss is not a number ${where}` }].sort((a, b) => a.step - b.step);
  }

  /** Reads what is new; says whether something was. */
  async load(signal) {
    const answer = await get(path`/api/runs/${this.id}/events`, { since: this.#cursor, points: this.#cursor ? null : POINTS }, signal);
    this.error = null;
    const again = !answer.whole && answer.steps.step[0] <= this.steps.step.at(-1);
    if (again) {
      // Steps that were made again: what was joined cannot be taken apart.
      this.#cursor = null;
      return this.load(signal);
    }
    this.#cursor = answer.cursor;
    for (const key of ["floor", "baseline", "tokens_per_step"]) this[key] = answer[key] ?? this[key] ?? null;
    const fresh = answer.whole || answer.steps.step.length || answer.estimates.step.length || answer.marks.length;
    if (answer.whole) this.#begin(answer);
    else this.#extend(answer);
    return !!fresh;
  }

  #begin({ steps, estimates, marks, steps_of: all, estimates_of: allEstimates }) {
    Object.assign(this, { steps, estimates, marks, part: null, thinned: allEstimates > estimates.step.length });
    this.#all = all === steps.step.length;
    const { step } = steps;
    this.#width = step.length > 1 ? Math.ceil((step.at(-1) - step[0]) / (step.length - 1)) : 1;
  }

  #extend({ steps, estimates, marks }) {
    this.#lengthen(steps);
    for (let i = 0; i < steps.step.length; i++) this.#add(steps, i);
    if (this.steps.step.length > 2 * POINTS) this.#halve();
    for (const [key, list] of Object.entries(estimates)) if (list) (this.estimates[key] ??= []).push(...list);
    this.marks.push(...marks);
  }

  /** A part that goes to the newest step goes on with what is new, as long as it is not too much. */
  #lengthen(more) {
    const { part } = this;
    if (!part || part.to < (this.steps.step.at(-1) ?? 0)) return;
    for (const key of Object.keys(part.steps)) part.steps[key].push(...(more[key] ?? []));
    if (part.steps.step.length > 4 * POINTS || part.estimates) this.part = null;
  }

  /** Joins the span `i` of `more` to the last one, if that is not as wide as it is to be, or puts it behind it. */
  #add(more, i) {
    const { steps } = this;
    const last = steps.step.length - 1;
    const begin = steps.step[last - 1] ?? 0;
    if (last < 1 || more.step[i] - begin > this.#width) {
      for (const key of Object.keys(more)) (steps[key] ??= []).push(more[key][i]);
    } else this.#join(steps, last, more, i, begin);
  }

  /** Joins span `i` of `more` to the span `at` of `steps`, which begins behind the step `begin`: means are weighed by steps. */
  #join(steps, at, more, i, begin) {
    this.#all = false;
    const [before, behind] = [steps.step[at] - begin, more.step[i] - steps.step[at]];
    for (const key of MEANS) steps[key][at] = both(steps[key][at], more[key][i], (a, b) => (a * before + b * behind) / (before + behind));
    for (const key of LEASTS) steps[key][at] = both(steps[key][at], more[key][i], Math.min);
    for (const key of MOSTS) steps[key][at] = both(steps[key][at], more[key][i], Math.max);
    steps.step[at] = more.step[i];
  }

  #halve() {
    const old = this.steps;
    this.#width *= 2;
    this.steps = Object.fromEntries(Object.keys(old).map((key) => [key, []]));
    for (let i = 0; i < old.step.length; i++) this.#add(old, i);
  }

  /** Whether, between two steps, there is more to see than what is here, on so many pixels. */
  coarse(from, end, pixels) {
    const to = Math.min(end, this.steps.step.at(-1) ?? 0);
    if (this.part && this.part.from <= from && this.part.to >= to && this.part.for <= (end - from) * 2.5) return false;
    if (this.#all) return false;
    const spans = this.steps.step.filter((step) => step >= from && step <= to).length;
    return to - from > spans * 1.5 && spans < pixels / 2;
  }

  /** Reads the steps between two steps, as finely as they can be had, and a little on both sides. */
  async look(from, to, signal) {
    const margin = Math.ceil((to - from) / 4);
    const range = { from: Math.max(0, Math.floor(from) - margin), to: Math.ceil(to) + margin };
    const answer = await get(path`/api/runs/${this.id}/events`, { ...range, points: 2 * POINTS }, signal);
    this.part = { ...range, for: to - from, steps: answer.steps, estimates: this.thinned ? answer.estimates : null };
  }

  /** The steps to draw: the finer ones, if they are of what is seen. */
  stepsFor(view) {
    const { part } = this;
    return part && view && part.from <= Math.max(view[0], 0) && part.to >= Math.min(view[1], this.steps.step.at(-1) ?? 0) ? part.steps : this.steps;
  }

  estimatesFor(view) {
    return (this.stepsFor(view) === this.part?.steps && this.part.estimates) || this.estimates;
  }

  /** Where steps are on an axis of `step`, `tokens` or `time` (seconds of training, between the estimates in proportion). */
  along(unit, steps) {
    if (unit === "step") return steps;
    if (unit === "tokens" && this.tokens_per_step) return steps.map((step) => step * this.tokens_per_step);
    const { from, to } = this.#known(unit);
    return steps.map((step) => between(from, to, step));
  }

  /** The step at a place of such an axis. */
  stepAt(unit, place) {
    if (unit === "step") return place;
    if (unit === "tokens" && this.tokens_per_step) return place / this.tokens_per_step;
    const { from, to } = this.#known(unit);
    return between(to, from, place);
  }

  #known(unit) {
    const values = this.estimates[unit === "time" ? "train_s" : "tokens"] ?? [];
    const known = this.estimates.step.map((step, i) => [step, values[i]]).filter(([, value]) => value != null);
    if (known.length && known[0][0] > 0) known.unshift([0, 0]);
    return { from: known.map(([step]) => step), to: known.map(([, value]) => value) };
  }
}

function both(a, b, how) {
  return a == null || b == null ? null : how(a, b);
}

/** The value at x of the line through the points; on both sides it goes on as between the nearest two. NaN if there are fewer. */
function between(xs, ys, x) {
  if (xs.length < 2) return NaN;
  let [low, high] = [0, xs.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle;
  }
  return ys[low] + ((x - xs[low]) * (ys[high] - ys[low])) / (xs[high] - xs[low] || 1);
}

/** A mean that forgets half in so many steps, and begins with the first value; gaps stay gaps. */
export function smoothed(steps, values, half) {
  let [sum, weight, last] = [0, 0, null];
  return values.map((value, i) => {
    if (value == null) return null;
    const keep = last === null ? 0 : 2 ** (-(steps[i] - last) / half);
    last = steps[i];
    sum = sum * keep + value * (1 - keep);
    weight = weight * keep + (1 - keep);
    return sum / weight;
  });
}

/** A value of a configuration, as it stands in a command. */
export function setting(value) {
  return value === undefined ? "–" : typeof value === "string" ? oneLine(value) : JSON.stringify(value);
}

/** The run that is looked at: its samples, its events, its settings. */
export class Run extends HTMLElement {
  #id = null;
  #samples = [];
  #newest = -1;
  /** So many samples the server did not send. */
  #omitted = 0;

  // How far the samples were told.
  #heard;
  #few = h("p", { className: "notes", hidden: true });
  #stop = new AbortController();
  #title = h("h2", { tabindex: "-1" });
  #slider = h("input", { type: "range", min: 0, step: 1, value: "0" });
  #step = h("output", { className: "number" });
  #text = h("pre", { className: "sample mono", tabindex: "0", role: "region", "aria-label": "What the model wrote" });
  #none = h("p", { className: "empty", hidden: true });
  #shown = h("div", { className: "stack" });
  #events = h("ol", { className: "events" });
  #quiet = h("p", { className: "faint" }, "No divergence, early stop or damage is recorded.");
  #error = h("p", { className: "error", role: "alert", hidden: true });
  /** Where else the model of the run can be looked at. */
  #links = h("nav", { className: "row", "aria-label": "The model of this run" });
  #settings = h("details", { ontoggle: () => this.#configure() }, h("summary", null, "All settings"));

  connectedCallback() {
    if (this.firstChild) return;
    this.classList.add("stack");
    const slide = field("Sample written at", this.#slider);
    slide.append(this.#step);
    slide.classList.add("inline", "slide");
    this.#shown.append(slide, this.#text, this.#few);
    this.#slider.addEventListener("input", () => this.#write());
    const back = h("button", { type: "button", className: "quiet push", onclick: () => this.dispatchEvent(new CustomEvent("back")) });
    back.textContent = "Back to the table";
    this.append(
      h("div", { className: "row" }, this.#title, this.#links, back),
      this.#error,
      h(
        "div",
        { className: "split" },
        h("section", { className: "stack" }, h("h3", null, "Samples"), this.#none, this.#shown),
        h("section", { className: "stack" }, h("h3", null, "Events"), this.#quiet, this.#events, this.#settings),
      ),
    );
  }

  disconnectedCallback() {
    this.#stop.abort();
  }

  /** The keyboard goes on here. */
  enter() {
    this.#title.focus({ preventScroll: true });
    this.scrollIntoView({ block: "start", behavior: stillness.matches ? "auto" : "smooth" });
  }

  /** Shows a run, of which this is known: its row in the list, its history, and which curve it has (undefined if none). */
  show(row, history, slot) {
    const other = row.id !== this.#id;
    if (other) this.#begin(row.id);
    if (other || slot !== this.#slot)
      this.#title.replaceChildren(...(slot === undefined ? [] : [swatch(slot), " "]), h("bdi", null, clipped(oneLine(row.id), 120)));
    this.#slot = slot;
    this.#link(row);
    this.#list(history?.events ?? []);
    const newest = history?.estimates.step.at(-1) ?? -1;
    const none =
      row.state === "running"
        ? "No samples yet. A run writes a few at its estimates, as many as cost little time; none if its sample_tokens is 0."
        : "This run has written no samples.";
    if (this.#none.textContent !== none) this.#none.textContent = none;
    if (history?.seen && newest < 0) this.#none.hidden = false;
    if (newest > this.#newest) {
      this.#newest = newest;
      this.#sample();
    }
  }

  #slot;
  #linked = "";

  #link({ id, has_checkpoint: some }) {
    const linked = some ? id : "";
    if (linked === this.#linked) return;
    this.#linked = linked;
    const pages = { write: ["model", "Write"], compare: ["a", "Compare"], read: ["model", "Read"], attention: ["model", "Look inside"] };
    const links = Object.entries(pages).map(([page, [key, title]]) => h("a", { href: `./#${page}?${new URLSearchParams({ [key]: id })}` }, title));
    this.#links.replaceChildren(...(some ? links : []));
    this.#links.hidden = !some;
  }

  #begin(id) {
    this.#stop.abort();
    this.#stop = new AbortController();
    this.#id = id;
    this.#newest = -1;
    this.#samples = [];
    this.#omitted = 0;
    this.#heard = undefined;
    this.#listed = null;
    this.#settings.open = false;
    this.#error.hidden = true;
    this.#settings.querySelector(".table")?.remove();
    this.#none.hidden = true;
    this.#shown.hidden = true;
  }

  #listed = null;

  #list(marks) {
    const listed = `${marks.length} ${marks.at(-1)?.text}`;
    if (this.#listed === listed) return;
    this.#listed = listed;
    this.#quiet.hidden = marks.some(({ kind }) => kind !== "done");
    const newest = marks.slice(-100);
    const more = marks.length - newest.length;
    const items = newest.map(({ step, text }) =>
      h("li", null, h("span", { className: "number faint" }, number(step)), h("span", null, readable(text))),
    );
    this.#events.replaceChildren(...(more ? [h("li", null, h("span"), `${number(more)} earlier ones are not shown.`)] : []), ...items);
  }

  async #sample() {
    const { signal } = this.#stop;
    const last = this.#samples.length - 1;
    const following = last < 0 || +this.#slider.value === last;
    await this.#ask(async () => {
      const answer = await get(path`/api/runs/${this.#id}/samples`, { since: this.#heard }, signal);
      // What was drawn before a return to a checkpoint is void.
      if (answer.whole) {
        this.#samples = [];
        this.#omitted = 0;
      }
      this.#heard = answer.cursor;
      // Two questions may have been on their way at once.
      const before = this.#samples.at(-1)?.step ?? -1;
      this.#samples.push(...answer.samples.filter(({ step }) => step > before));
      this.#omitted += answer.left_out ?? 0;
      this.#few.textContent = `${number(this.#omitted)} older samples are not shown.`;
      this.#few.hidden = !this.#omitted;
      const some = this.#samples.length > 0;
      this.#none.hidden = some;
      this.#shown.hidden = !some;
      this.#slider.max = Math.max(0, this.#samples.length - 1);
      if (following) this.#slider.value = this.#slider.max;
      if (some) this.#write();
    });
  }

  #write() {
    const sample = this.#samples[+this.#slider.value];
    if (!sample) return;
    this.#step.textContent = `step ${number(sample.step)}`;
    this.#slider.setAttribute("aria-valuetext", `step ${number(sample.step)}`);
    const text = readable(sample.text);
    if (this.#text.textContent !== text) this.#text.textContent = text;
  }

  async #configure() {
    if (!this.#settings.open || this.#settings.querySelector(".table")) return;
    await this.#ask(async () => {
      const { config, differs_from_preset: own = {} } = await get(path`/api/runs/${this.#id}/config`, {}, this.#stop.signal);
      const rows = Object.entries(config).map(([key, value]) =>
        h(
          "tr",
          { className: key in own ? "own" : null },
          h("th", { scope: "row" }, oneLine(key)),
          h("td", { className: "mono" }, setting(value)),
          h("td", { className: "faint" }, key in own ? "not as in the preset" : ""),
        ),
      );
      const head = h("tr", null, h("th", { scope: "col" }, "Setting"), h("th", { scope: "col" }, "Value"), h("th", { scope: "col" }, "Besides"));
      this.#settings.querySelector(".table")?.remove();
      this.#settings.append(
        h(
          "div",
          { className: "table tall", tabindex: "0", role: "region", "aria-label": "All settings" },
          h("table", null, h("thead", null, head), h("tbody", null, rows)),
        ),
      );
      say(`${rows.length} settings`);
    });
  }

  async #ask(question) {
    try {
      await question();
      this.#error.hidden = true;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#error.textContent = error.message;
      this.#error.hidden = false;
    }
  }
}

customElements.define("kinglet-run", Run);

/** A tuning: its trials, and what each setting did to the loss. */
export class Tuning extends HTMLElement {
  #row = null;
  #asked = null;
  #stop = new AbortController();
  #summary = h("summary");
  #best = h("span", { className: "faint" });
  #content = h("div", { className: "stack" });
  #error = h("p", { className: "error", role: "alert", hidden: true });
  #details = h("details", { ontoggle: () => this.#load() }, this.#summary, this.#error, this.#content);
  #charts = new Map();

  connectedCallback() {
    if (!this.firstChild) this.append(this.#details);
  }

  disconnectedCallback() {
    this.#stop.abort();
  }

  /** Shows what the list of tunings says of it. */
  show(row) {
    this.#row = row;
    const { best } = row;
    const parts = [row.state, `${number(row.finished)} of ${number(row.trials)} trials`];
    if (best) {
      const settings = Object.entries(best.settings).map(([key, value]) => `${oneLine(key)}=${setting(value)}`);
      parts.push(`best ${number(best.val_loss)} in trial ${best.trial}: ${settings.join(", ")}`);
    }
    this.#best.textContent = ` ${parts.join(" · ")}`;
    this.#summary.replaceChildren(h("bdi", { className: "name" }, oneLine(row.id)), this.#best);
    this.#load();
  }

  async #load() {
    const key = JSON.stringify(this.#row);
    if (!this.#details.open || this.#asked === key) return;
    this.#asked = key;
    try {
      const answer = await get(path`/api/tune/${this.#row.id}`, {}, this.#stop.signal);
      this.#error.hidden = true;
      this.#fill(answer);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#asked = null;
      this.#error.textContent = error.message;
      this.#error.hidden = false;
    }
  }

  /** The number of a trial; where its run is known, one may go there. */
  #link({ trial, run }) {
    if (!run) return String(trial);
    const go = () => this.dispatchEvent(new CustomEvent("look", { detail: run, bubbles: true }));
    return h("button", { type: "button", title: `Look at ${oneLine(run)}`, onclick: go }, String(trial));
  }

  #fill({ keys, trials, best }) {
    const head = [["Trial", "number"], ["Validation loss", "number"], ["Step", "number"], ["State"], ...keys.map((key) => [oneLine(key), "number"])];
    const order = [...trials].sort((a, b) => (a.val_loss ?? Infinity) - (b.val_loss ?? Infinity) || a.trial - b.trial);
    const rows = order.map((trial) =>
      h(
        "tr",
        { className: trial.trial === best ? "own" : null },
        h("th", { scope: "row", className: "number" }, this.#link(trial)),
        h("td", { className: "number" }, number(trial.val_loss)),
        h("td", { className: "number" }, number(trial.step)),
        h("td", null, trial.trial === best ? `${trial.state}, best` : trial.state),
        keys.map((key) => h("td", { className: "number" }, setting(trial.settings[key]))),
      ),
    );
    const table = h(
      "table",
      null,
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          head.map(([text, className]) => h("th", { scope: "col", className }, text)),
        ),
      ),
      h("tbody", null, rows),
    );
    const plots = h("div", { className: "split plots" });
    const before = this.#content.querySelector(".table")?.scrollTop ?? 0;
    const about = `Trials of ${oneLine(this.#row.id)}`;
    const around = h("div", { className: "table tall", tabindex: "0", role: "region", "aria-label": about }, table);
    for (const key of keys) {
      if (!this.#charts.has(key)) this.#charts.set(key, h("kinglet-chart", { className: "small" }));
      plots.append(this.#charts.get(key));
    }
    this.#content.replaceChildren(plots, around);
    around.scrollTop = before;
    for (const key of keys) this.#charts.get(key).show(scatter(this.#row.id, key, trials, best));
  }
}

/** The loss of each trial against one of its settings: numbers on an axis, other values side by side. */
function scatter(id, key, trials, best) {
  const done = trials.filter((trial) => Number.isFinite(trial.val_loss) && trial.settings[key] !== undefined);
  const values = done.map((trial) => trial.settings[key]);
  const numeric = values.every((value) => typeof value === "number");
  const names = numeric ? null : [...new Set(values.map(setting))].sort();
  const place = (trial) => (numeric ? trial.settings[key] : names.indexOf(setting(trial.settings[key])));
  const log = numeric && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) >= 20;
  const points = (name, slot, quiet, is) => {
    const sorted = done.filter(is).sort((a, b) => place(a) - place(b));
    return { name, slot, quiet, x: sorted.map(place), y: sorted.map((trial) => trial.val_loss), line: false, points: true };
  };
  const early = ({ state }) => state === "stopped early";
  // What was stopped early was trained less: its loss says less.
  const series = [
    points("stopped early", 0, true, (trial) => early(trial) && trial.trial !== best),
    points("trial", 0, false, (trial) => !early(trial) && trial.trial !== best),
    points("best trial", 1, false, (trial) => trial.trial === best),
  ];
  return {
    title: oneLine(key),
    about: `validation loss of ${done.length} trials of ${oneLine(id)} against ${oneLine(key)}.`,
    x: { label: oneLine(key), log, names, pad: true },
    y: { label: "validation loss", calm: true },
    hint: done.some(early) ? "paler: stopped early" : null,
    series,
  };
}

customElements.define("kinglet-tuning", Tuning);
