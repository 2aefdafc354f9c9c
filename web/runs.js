// The runs in the folders served: a table, which is the legend of the curves below it, and the run that is looked at.
// The server is asked every few seconds for what has changed, unless nobody looks; what has not changed is not drawn again.

import { get } from "./api.js";
import { swatch, together } from "./chart.js";
import { clipped, field, h, number, oneLine, say } from "./dom.js";
import { History, setting, smoothed } from "./run.js";
import { filter, filterable, tooMany } from "./table.js";

/** Between two questions, where a run is being trained and where none is. The page is to take little from a training beside it. */
const PAUSE = 3000;
const IDLE_PAUSE = 5000;
/** Curves that grow are read and drawn again no more often, unless something is chosen. */
const REDRAW = 8000;
const LONGEST_PAUSE = 30_000;
const PATIENCE = 20_000;
const AT_FIRST = 8;
/** So many curves are drawn at most. */
const MOST = 24;

const UNITS = { step: "Step", tokens: "Tokens", time: "Time" };
const HALVES = [0, 10, 30, 100, 300, 1000, 3000];

/** The small charts: what of the steps each shows. */
const QUANTITIES = [
  { key: "lr", title: "Learning rate", about: "the learning rate" },
  { key: "grad_norm", title: "Gradient norm", about: "the norm of the gradient" },
  { key: "tokens_per_s", title: "Speed", about: "tokens a second", label: "tokens/s" },
];

class Runs extends HTMLElement {
  #rows = new Map();
  #keys = [];
  #tunings = new Map();
  #cursor = null;
  #first = 0;
  #histories = new Map();
  /** The runs that were selected by hand; null as long as it is the newest of those in the table. */
  #chosen = null;
  /** Which curve each run that is shown has: its number among the colours. */
  #slots = new Map();
  #looked = null;
  #sort = { key: null, down: false };
  /** Whether the table has the settings, however many; null as long as nobody has said. */
  #open = null;
  #view = null;
  #stop = new AbortController();
  #asking = null;
  #timer;

  #error = h("p", { className: "error", role: "alert", hidden: true });
  #filter = h("input", { type: "search", placeholder: "name, state, n_layer=4, val_loss<1.8", autocomplete: "off", spellcheck: "false" });
  #count = h("span", { className: "faint", role: "status" });
  #bar = h("div", { className: "row ends" });
  #limit = h("p", { className: "error", role: "alert", hidden: true });
  #none = h("p", { className: "empty", hidden: true });
  #table = h("kinglet-runs-table");
  #settings = h("button", { type: "button", hidden: true, onclick: () => this.#unfold() });
  #tabled = h("section", { className: "stack", "aria-label": "Table of runs", hidden: true });
  #empty = h("p", { className: "empty", hidden: true });
  #unit = h("select", null, ...Object.entries(UNITS).map(([value, title]) => h("option", { value }, title)));
  #logX = h("input", { type: "checkbox" });
  #logY = h("input", { type: "checkbox" });
  #training = h("input", { type: "checkbox", checked: true });
  #validation = h("input", { type: "checkbox", checked: true });
  #spread = h("input", { type: "checkbox", checked: true, title: "The least and the greatest training loss of the steps of each point" });
  #outliers = h("input", { type: "checkbox", title: "Makes room for the few highest values" });
  #smooth = h("select", null, ...HALVES.map((half) => h("option", { value: half }, half ? `half-life ${number(half)} steps` : "none")));
  #showAll = h("button", { type: "button", hidden: true, onclick: () => this.#zoom(null, true) }, "Show all");
  #notes = h("p", { className: "notes", hidden: true });
  #loss = h("kinglet-chart", { className: "large" });
  #small = QUANTITIES.map(() => h("kinglet-chart", { className: "small" }));
  #curves = h("section", { className: "stack", "aria-label": "Curves", hidden: true });
  #differ = h("section", { className: "stack", hidden: true });
  #run = h("kinglet-run", { hidden: true });
  #tuned = h("section", { className: "stack", hidden: true }, h("h2", null, "Tunings"));

  connectedCallback() {
    this.#build();
    this.#read(this.query ?? new URLSearchParams());
    document.addEventListener("visibilitychange", this.#seen);
    this.#tick();
  }

  disconnectedCallback() {
    document.removeEventListener("visibilitychange", this.#seen);
    clearTimeout(this.#timer);
    this.#stop.abort();
    this.#asking?.abort();
  }

  #build() {
    this.classList.add("stack", "wide");
    const tick = (label, input) => {
      const one = field(label, input);
      one.classList.add("inline");
      one.prepend(input);
      return one;
    };
    const along = (label, select) => {
      const one = field(label, select);
      one.classList.add("inline");
      return one;
    };
    const filter = field("Filter", this.#filter);
    filter.classList.add("grow");
    const newest = h(
      "button",
      { type: "button", title: "Select the newest runs in the table", onclick: () => this.#select(null) },
      `Newest ${AT_FIRST}`,
    );
    const none = h("button", { type: "button", onclick: () => this.#select(new Set()) }, "None");
    this.#bar.append(filter, h("div", { className: "buttons", role: "group", "aria-label": "Select" }, newest, none), this.#settings, this.#count);
    const knobs = h(
      "div",
      { className: "row" },
      along("x axis", this.#unit),
      tick("Log x", this.#logX),
      tick("Training", this.#training),
      tick("Spread", this.#spread),
      tick("Validation", this.#validation),
      tick("Log y", this.#logY),
      tick("Show outliers", this.#outliers),
      along("Smoothing of training", this.#smooth),
      this.#showAll,
    );
    this.#curves.append(
      h("h2", { className: "unseen" }, "Curves"),
      knobs,
      this.#loss,
      this.#notes,
      h("div", { className: "split thirds" }, ...this.#small),
    );
    this.#tabled.append(this.#bar, this.#limit, this.#table, this.#none);
    this.append(
      this.#error,
      this.#tabled,
      this.#empty,
      this.#curves,
      this.#run,
      this.#differ,
      this.#tuned,
    );
    const charts = [this.#loss, ...this.#small];
    together(charts);
    charts.forEach((chart) => chart.addEventListener("view", ({ detail }) => this.#zoom(detail, false)));
    this.#tuned.addEventListener("look", ({ detail }) => this.#rows.has(detail) && this.#look(detail));
    this.#table.addEventListener("pick", ({ detail }) => this.#pick(detail));
    this.#table.addEventListener("look", ({ detail }) => this.#look(detail));
    this.#table.addEventListener("order", ({ detail }) => {
      this.#sort = detail;
      this.#changed();
    });
    this.#run.addEventListener("back", () => this.#table.enter(this.#lookedAt()));
    this.#filter.addEventListener("input", () => this.#changed());
    this.#unit.addEventListener("change", () => {
      this.#zoom(null, true);
      this.#changed();
    });
    for (const input of [this.#logX, this.#logY, this.#training, this.#validation, this.#spread, this.#outliers, this.#smooth])
      input.addEventListener("change", () => this.#changed());
  }

  /** Takes what an address says. */
  #read(query) {
    if (query.has("run") || query.has("none")) this.#chosen = new Set(query.getAll("run"));
    this.#filter.value = query.get("filter") ?? "";
    if (query.get("x") in UNITS) this.#unit.value = query.get("x");
    this.#logX.checked = query.has("logx");
    this.#logY.checked = query.has("logy");
    this.#smooth.value = HALVES.includes(+query.get("smooth")) ? String(+query.get("smooth")) : "0";
    const hidden = (query.get("hide") ?? "").split(",");
    for (const [name, input] of Object.entries(this.#parts())) input.checked = !hidden.includes(name);
    this.#outliers.checked = query.has("outliers");
    if (query.has("settings")) this.#open = query.get("settings") !== "0";
    this.#looked = query.get("look");
    const sort = query.get("sort");
    if (sort) this.#sort = { key: sort.replace(/^-/, ""), down: sort.startsWith("-") };
    const view = query.get("view")?.split(",").map(Number);
    if (view?.length === 2 && view.every(Number.isFinite) && view[0] < view[1]) this.#zoom(view, true);
  }

  /** What of the curves may be hidden, by its name in the address. */
  #parts() {
    return { training: this.#training, spread: this.#spread, validation: this.#validation };
  }

  /** Puts what was chosen into the address. */
  #write() {
    const query = new URLSearchParams();
    if (this.#chosen) for (const id of this.#chosen) query.append("run", id);
    if (this.#chosen && !this.#chosen.size) query.set("none", "");
    const said = {
      filter: this.#filter.value.trim(),
      x: this.#unit.value === "step" ? "" : this.#unit.value,
      logx: this.#logX.checked ? "1" : "",
      logy: this.#logY.checked ? "1" : "",
      smooth: +this.#smooth.value ? this.#smooth.value : "",
      hide: Object.entries(this.#parts()).filter(([, input]) => !input.checked).map(([name]) => name).join(","),
      outliers: this.#outliers.checked ? "1" : "",
      settings: this.#open === null ? "" : this.#open ? "1" : "0",
      look: this.#looked ?? "",
      sort: this.#sort.key ? `${this.#sort.down ? "-" : ""}${this.#sort.key}` : "",
      view: this.#view?.map((place) => +place.toPrecision(6)).join(",") ?? "",
    };
    for (const [key, value] of Object.entries(said)) if (value) query.set(key, value);
    history.replaceState(null, "", `#runs${query.size ? `?${query}` : ""}`);
  }

  /** Something was chosen. */
  #changed() {
    this.#write();
    this.#limit.hidden = true;
    if (!this.#known) return;
    this.#list();
    this.#draw();
    this.#soon();
  }

  // Asking the server

  #seen = () => {
    clearTimeout(this.#timer);
    if (!document.hidden) this.#tick();
  };

  #pause = PAUSE;
  #busy = false;

  /** Asks for what has changed, now and then again. */
  async #tick() {
    if (document.hidden || !this.isConnected || this.#busy) return;
    this.#busy = true;
    this.#hurry = false;
    clearTimeout(this.#timer);
    try {
      const first = this.#cursor === null;
      const answer = await get("/api/runs", { since: this.#cursor }, this.#patience());
      this.#known = true;
      this.#well();
      if (this.#take(answer, first)) this.#list();
      if ((await this.#refresh()) || first) this.#draw();
    } catch (error) {
      if (error.name !== "AbortError") this.#ill(error);
    }
    this.#busy = false;
    if (this.isConnected && !document.hidden) this.#timer = setTimeout(() => this.#tick(), this.#hurry ? 0 : this.#pause);
  }

  /** Whether the server has ever answered: before that, there is nothing to show. */
  #known = false;

  /** A question ends with the page, or where the server does not answer for long: it may have been stopped half-way. */
  #patience() {
    return AbortSignal.any([this.#stop.signal, AbortSignal.timeout(PATIENCE)]);
  }

  /** Asks at once, where something was chosen that is not here yet. */
  #soon() {
    if (this.#wanted().every((id) => this.#histories.has(id))) return;
    this.#hurry = true;
    this.#tick();
  }

  #hurry = false;

  #well() {
    this.#tabled.hidden = false;
    this.#pause = PAUSE;
    if (this.#error.hidden) return;
    this.#error.hidden = true;
    say("The server answers again");
  }

  /** Says once that the server cannot be asked, and asks less and less often. After that everything is asked anew. */
  #ill(error) {
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
    this.#cursor = null;
    const text =
      error.status === 401
        ? "Open the address that kinglet serve printed: it ends in #token=…"
        : `${error.message} It is asked again from time to time.`;
    if (!this.#error.hidden && this.#error.textContent === text) return;
    this.#error.textContent = text;
    this.#error.hidden = false;
  }

  /** Takes the list of runs, or what has changed of it; says whether anything has. */
  #take({ cursor, whole, keys = this.#keys, gone = [], runs = [], tunings = [] }, first) {
    this.#cursor = cursor;
    const all = first || whole;
    const known = [...this.#rows.keys(), ...this.#tunings.keys()];
    const left = all ? known.filter((id) => ![...runs, ...tunings].some((one) => one.id === id)) : gone;
    this.#keys = keys;
    for (const id of left) {
      this.#rows.delete(id);
      this.#histories.delete(id);
      this.#tunings.get(id)?.remove();
      this.#tunings.delete(id);
    }
    for (const run of runs.toReversed()) {
      const before = all ? null : this.#rows.get(run.id);
      const order = before?.order ?? (this.#first -= 1);
      this.#rows.set(run.id, { ...run, order });
    }
    for (const tuning of tunings) {
      if (!this.#tunings.has(tuning.id)) this.#tunings.set(tuning.id, this.#tuned.appendChild(h("kinglet-tuning")));
      this.#tunings.get(tuning.id).show(tuning);
    }
    this.#tuned.hidden = !this.#tunings.size;
    this.#pause = this.#running() ? PAUSE : IDLE_PAUSE;
    return all || left.length > 0 || runs.length > 0;
  }

  #running() {
    return [...this.#rows.values()].filter(({ state }) => state === "running").length;
  }

  #readAt = 0;

  /** Reads on in the runs that are shown, if the list says that there is more; says whether there is something to draw. */
  async #refresh() {
    const due = performance.now() - this.#readAt >= REDRAW;
    const stale = this.#wanted()
      .map((id) => this.#rows.get(id))
      .filter((run) => {
        if (!this.#histories.has(run.id)) this.#histories.set(run.id, new History(run.id));
        const { seen } = this.#histories.get(run.id);
        return seen === null || (seen !== sign(run) && (due || run.state !== "running"));
      });
    if (due) this.#readAt = performance.now();
    const found = await Promise.all(
      stale.map(async (run) => {
        const history = this.#histories.get(run.id);
        try {
          const fresh = await history.load(this.#patience());
          history.seen = sign(run);
          return fresh;
        } catch (error) {
          // What is wrong with one run says nothing of the others. The server's silence does.
          if (!error.status) throw error;
          history.error = error.message;
          history.seen = sign(run);
          return true;
        }
      }),
    );
    if (this.#view && found.some(Boolean)) this.#closer();
    return found.some(Boolean);
  }

  /** The runs whose history is needed. */
  #wanted() {
    const ids = new Set(this.#slots.keys());
    const looked = this.#lookedAt();
    if (looked) ids.add(looked);
    return [...ids];
  }

  #lookedAt() {
    return this.#rows.has(this.#looked) ? this.#looked : this.#slots.keys().next().value;
  }

  // The table

  /** Brings the table to what is known. */
  #list() {
    const rows = [...this.#rows.values()];
    const { matches, unknown } = filter(this.#filter.value, rows, this.#keys);
    const seen = rows.filter(matches).sort((a, b) => a.order - b.order);
    this.#assign(
      seen
        .filter(({ id }, i) => (this.#chosen ? this.#chosen.has(id) : i < AT_FIRST))
        .slice(0, MOST)
        .map(({ id }) => id),
    );
    const open = this.#open ?? !tooMany(this.#keys);
    const looked = this.#lookedAt();
    this.#table.show({ rows, seen, keys: this.#keys, sort: this.#sort, open, slots: this.#slots, looked });
    this.#fold(open);
    this.#tell(seen.length, unknown);
  }

  /** The settings that differ are many columns, sometimes: they are folded away then. */
  #fold(open) {
    this.#settings.hidden = !tooMany(this.#keys);
    const text = `Settings (${this.#keys.length})`;
    if (this.#settings.textContent !== text) this.#settings.textContent = text;
    this.#settings.setAttribute("aria-pressed", String(open));
  }

  #unfold() {
    this.#open = !(this.#open ?? false);
    this.#changed();
    say(this.#open ? "The table has the settings that differ" : "The table is without settings");
  }

  #tell(seen, unknown) {
    const running = this.#running();
    const all = this.#rows.size;
    const parts = [
      seen === all ? `${number(seen)} ${seen === 1 ? "run" : "runs"}` : `${number(seen)} of ${number(all)} runs`,
      running && `${number(running)} running`,
      `${number(this.#slots.size)} selected`,
    ];
    const text = parts.filter(Boolean).join(" · ");
    if (this.#count.textContent !== text) this.#count.textContent = text;
    this.#bar.hidden = !all;
    this.#table.hidden = !seen;
    this.#none.hidden = seen > 0;
    this.#none.textContent = all ? this.#unmatched(unknown) : "There are no runs in the folders served yet. Start one: kinglet train";
    this.#curves.hidden = !this.#slots.size;
    const empty = [this.#missing(), seen && !this.#slots.size && "Select runs to see their curves."].filter(Boolean).join(" ");
    if (this.#empty.textContent !== empty) this.#empty.textContent = empty;
    this.#empty.hidden = !empty;
    this.#empty.classList.toggle("empty", !this.#slots.size);
    this.#empty.classList.toggle("notes", this.#slots.size > 0);
  }

  #unmatched(unknown) {
    if (!unknown.length) return `No run matches. ${filterable(this.#keys)}`;
    const names = unknown.map((name) => clipped(oneLine(name), 40)).join(", ");
    return `No run matches: ${names}: all runs share that setting or it is unknown. ${filterable(this.#keys)}`;
  }

  /** What the address names and is not there, or no more. */
  #missing() {
    const ids = new Set([...(this.#chosen ?? []), this.#looked].filter((id) => id && !this.#rows.has(id)));
    if (!ids.size) return "";
    const names = [...ids].slice(0, 5).map((id) => clipped(oneLine(id), 60));
    return `Not here: ${names.join(", ")}${ids.size > 5 ? ` and ${ids.size - 5} more` : ""}.`;
  }

  /** Gives each run that is shown a curve. One that was shown before keeps its own. */
  #assign(ids) {
    const before = this.#slots;
    const kept = new Set(ids.map((id) => before.get(id)).filter((slot) => slot !== undefined));
    let free = 0;
    this.#slots = new Map(
      ids.map((id) => {
        if (before.has(id)) return [id, before.get(id)];
        while (kept.has(free)) free += 1;
        kept.add(free);
        return [id, free];
      }),
    );
  }

  #pick({ id, on }) {
    if (on && this.#slots.size >= MOST) {
      this.#limit.textContent = `At most ${MOST} runs are drawn at once: take one away first.`;
      this.#limit.hidden = false;
      return;
    }
    const chosen = new Set(this.#chosen ?? this.#slots.keys());
    if (on) chosen.add(id);
    else chosen.delete(id);
    // Those that are no more, and those beyond the most that are drawn, are no choice.
    this.#select(new Set([...chosen].filter((id) => this.#rows.has(id))));
  }

  #select(chosen) {
    this.#chosen = chosen;
    this.#changed();
  }

  #look(id) {
    this.#looked = id;
    this.#changed();
    this.#run.enter();
  }

  // The curves

  /** Zooms; `all` says it to the charts too. */
  #zoom(view, all) {
    this.#view = view;
    if (all) [this.#loss, ...this.#small].forEach((chart) => (chart.view = view));
    if (this.#showAll === document.activeElement && !view) this.#loss.focus();
    this.#showAll.hidden = !view;
    if (!this.#rows.size) return;
    this.#write();
    this.#draw();
    this.#closer();
  }

  #waiting;

  /** Asks for the steps that are zoomed to, where one sees that there are more than are here. */
  #closer() {
    clearTimeout(this.#waiting);
    this.#asking?.abort();
    if (!this.#view) return;
    this.#waiting = setTimeout(async () => {
      this.#asking = new AbortController();
      const { signal } = this.#asking;
      const asked =
        this.#histories.size &&
        [...this.#slots.keys()]
          .map((id) => this.#histories.get(id))
          .filter(Boolean)
          .map(async (history) => {
            const [from, to] = this.#view.map((place) => history.stepAt(this.#unit.value, place));
            if (Number.isFinite(from) && history.coarse(from, to, this.#loss.clientWidth)) return history.look(from, to, signal).then(() => true);
            return false;
          });
      try {
        if ((await Promise.all(asked || [])).some(Boolean)) this.#draw();
      } catch (error) {
        if (error.name !== "AbortError") this.#ill(error);
      }
    }, 200);
  }

  #draw() {
    if (!this.isConnected) return;
    const shown = [...this.#slots]
      .map(([id, slot]) => ({ slot, run: this.#rows.get(id), history: this.#histories.get(id) }))
      .filter(({ history }) => history);
    const unit = this.#unit.value;
    if (!shown.length) {
      this.#compare(shown);
      this.#show();
      return;
    }
    const ends = shown.map(({ history }) => Math.max(0, ...history.along(unit, history.steps.step.slice(-1)).filter(Number.isFinite)));
    const x = {
      label: UNITS[unit].toLowerCase(),
      log: this.#logX.checked,
      time: unit === "time",
      whole: unit !== "time",
      domain: [0, Math.max(...ends)],
    };
    this.#clamp(x.domain[1], shown.length === this.#slots.size && shown.every(({ history }) => history.seen));
    const of = `${shown.length} ${shown.length === 1 ? "run" : "runs"}.`;
    this.#loss.show({
      title: +this.#smooth.value && this.#training.checked ? "Loss (training smoothed)" : "Loss",
      about: `${this.#losses().join(" and ")} of ${of}`,
      x,
      y: { label: "nats per token", log: this.#logY.checked, calm: !this.#outliers.checked },
      hint: this.#view ? null : "drag to zoom",
      series: shown.flatMap((one) => this.#lossSeries(one, unit)),
      lines: references(shown),
      marks: shown.flatMap((one) => flags(one, unit)),
      follows: true,
    });
    QUANTITIES.forEach(({ key, title, about, label }, i) =>
      this.#small[i].show({
        title,
        about: `${about} of ${of}`,
        x,
        y: { label, calm: key === "grad_norm" && !this.#outliers.checked },
        follows: true,
        series: shown.map((one) => this.#series(one, unit, key)),
      }),
    );
    this.#say(shown, unit);
    this.#compare(shown);
    this.#show();
  }

  /** An address may name a part that is not there: once all curves are, what is beyond their end is let go. */
  #clamp(end, all) {
    if (!this.#view || !all || !(end > 0)) return;
    const [from, to] = [Math.max(0, this.#view[0]), Math.min(end, this.#view[1])];
    if (from === this.#view[0] && to === this.#view[1]) return;
    this.#view = from < to && (from > 0 || to < end) ? [from, to] : null;
    [this.#loss, ...this.#small].forEach((chart) => (chart.view = this.#view));
    this.#showAll.hidden = !this.#view;
    this.#write();
  }

  #losses() {
    return [this.#training.checked && "training loss", this.#validation.checked && "validation loss"].filter(Boolean);
  }

  /** The range of steps that is looked at, of this run. */
  #range(history, unit) {
    return this.#view?.map((place) => history.stepAt(unit, place));
  }

  #series({ run, slot, history }, unit, key) {
    const steps = history.stepsFor(this.#range(history, unit));
    const y = steps[key] ?? [];
    const most = this.#spread.checked ? steps[`${key}_max`] : null;
    return known({ name: run.id, slot, x: history.along(unit, steps.step), y, low: most && y, high: most });
  }

  #lossSeries({ run, slot, history }, unit) {
    const range = this.#range(history, unit);
    const steps = history.stepsFor(range);
    const series = [];
    if (this.#training.checked) {
      const half = +this.#smooth.value;
      const y = half ? smoothed(steps.step, steps.loss ?? [], half) : (steps.loss ?? []);
      const spread = this.#spread.checked && { low: steps.loss_min, high: steps.loss_max };
      series.push(
        known({
          name: run.id,
          part: this.#validation.checked ? "training" : "",
          slot,
          x: history.along(unit, steps.step),
          y,
          ...spread,
          quiet: this.#validation.checked,
        }),
      );
    }
    if (this.#validation.checked) {
      const { step, val_loss: y, old_val_loss: old } = history.estimatesFor(range);
      if (old?.some((value) => value != null))
        series.push(known({ name: run.id, part: "old text", slot, x: history.along(unit, step), y: old, quiet: true }));
      series.push(known({ name: run.id, part: this.#training.checked ? "validation" : "", slot, x: history.along(unit, step), y, points: true }));
    }
    return series;
  }

  /** What the curves do not show, and what is wrong with some. */
  #say(shown, unit) {
    const notes = shown.filter(({ history }) => history.error).map(({ run, history }) => `${clipped(oneLine(run.id), 40)}: ${history.error}`);
    const untimed = shown.filter(({ history }) => history.steps.step.length && Number.isNaN(history.along(unit, [1])[0]));
    if (untimed.length)
      notes.push(
        `Without an estimate yet, and so without ${UNITS[unit].toLowerCase()}: ${untimed.map(({ run }) => clipped(oneLine(run.id), 40)).join(", ")}.`,
      );
    const hidden = this.#chosen ? [...this.#chosen].filter((id) => this.#rows.has(id) && !this.#slots.has(id)).length : 0;
    if (hidden)
      notes.push(
        `${number(hidden)} selected ${hidden === 1 ? "run is" : "runs are"} not drawn: the filter leaves them out, or there are more than ${MOST}.`,
      );
    const text = notes.join(" ");
    if (this.#notes.textContent !== text) this.#notes.textContent = text;
    this.#notes.hidden = !text;
  }

  /** What differs between the runs that are shown. */
  #compare(shown) {
    const keys = this.#keys.filter((key) => new Set(shown.map(({ run }) => JSON.stringify(run.differs?.[key]))).size > 1);
    const made = JSON.stringify([keys, shown.map(({ run, slot }) => [run.id, slot, run.differs])]);
    if (made === this.#compared) return;
    this.#compared = made;
    this.#differ.hidden = !keys.length;
    const heads = shown.map(({ run, slot }) =>
      h("th", { scope: "col" }, swatch(slot), h("bdi", { className: "name", title: oneLine(run.id) }, oneLine(run.id))),
    );
    const rows = keys.map((key) =>
      h(
        "tr",
        null,
        h("th", { scope: "row" }, oneLine(key)),
        shown.map(({ run }) => h("td", { className: "mono" }, setting(run.differs?.[key]))),
      ),
    );
    const table = h("table", null, h("thead", null, h("tr", null, h("th", { scope: "col" }, "Setting"), heads)), h("tbody", null, rows));
    this.#differ.replaceChildren(
      h("h2", null, "What differs between them"),
      h("div", { className: "table compared", tabindex: "0", role: "region", "aria-label": "What differs between them" }, table),
    );
  }

  #compared = "";

  #show() {
    const looked = this.#lookedAt();
    this.#run.hidden = !looked;
    if (looked) this.#run.show(this.#rows.get(looked), this.#histories.get(looked), this.#slots.get(looked));
  }
}

/** What tells that a run has changed since its history was read. */
function sign({ step, state, changed }) {
  return `${step} ${state} ${changed}`;
}

/** A series without the points whose place is not known. */
function known(series) {
  if (!Number.isNaN(series.x.at(-1))) return series;
  return { ...series, x: [], y: [], low: null, high: null };
}

/** The lines of reference: each value once, with the names of what has it, and of the runs, unless all have it. */
function references(shown) {
  const lines = new Map();
  const put = (name, y, id) => {
    if (y == null) return;
    const key = number(y);
    const line = lines.get(key) ?? lines.set(key, { y, names: new Set(), ids: new Set() }).get(key);
    line.names.add(clipped(oneLine(name), 32));
    line.ids.add(id);
  };
  for (const { run, history } of shown) {
    put("entropy floor", history.floor, run.id);
    put(history.baseline?.name ?? "", history.baseline?.nats_per_token, run.id);
  }
  // A run that is not done does not know its own yet; where all have one text, it is that of the others.
  const names = [...lines.values()].flatMap(({ names }) => [...names]);
  const one = new Set(shown.map(({ run }) => run.data)).size === 1 && names.length === new Set(names).size;
  return [...lines].map(([value, { y, names, ids }]) => {
    const [first, ...more] = names;
    const name = `${first}${more.length ? ` and ${more.length} more` : ""} ${value}`;
    const whose = ids.size === 1 ? clipped(oneLine([...ids][0]), 24) : `${ids.size} of the runs`;
    return { y, label: one || ids.size === shown.length ? name : `${name} (${whose})` };
  });
}

/** The events of a run that are worth a mark. That it is done, one sees. */
function flags({ run, slot, history }, unit) {
  const texts = new Map();
  for (const { step, kind, text } of history.events) if (kind !== "done") texts.set(step, [...(texts.get(step) ?? []), text]);
  const places = history.along(unit, [...texts.keys()]);
  const name = clipped(oneLine(run.id), 40);
  return [...texts]
    .map(([step, all], i) => ({ x: places[i], slot, text: `${name}, step ${number(step)}: ${all.join(" ")}` }))
    .filter(({ x }) => !Number.isNaN(x));
}

customElements.define("kinglet-runs", Runs);
