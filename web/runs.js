// The runs in the folders served: a table, which is the legend of the curves below it, and the run that is looked at.
// The server is asked every two seconds for what has changed, unless nobody looks; what has not changed is not drawn again.

import { get } from "./api.js";
import { swatch, together } from "./chart.js";
import { clipped, duration, field, h, newId, number, oneLine, say, short } from "./dom.js";
import { History, setting, smoothed } from "./run.js";

const PAUSE = 2000;
const LONGEST_PAUSE = 30_000;
const PATIENCE = 20_000;
const AT_FIRST = 8;
/** So many curves are drawn at most. */
const MOST = 24;

const UNITS = { step: "Step", tokens: "Tokens", time: "Time" };
const HALVES = [0, 10, 30, 100, 300, 1000, 3000];

/** Columns: of a run its value (for sorting), and how it is shown, if not as a number. Settings that differ come before `started`. */
const COLUMNS = [
  {
    key: "state",
    title: "State",
    words: true,
    text: ({ state, silent_s }) => (state === "running" && silent_s > 60 ? `running, silent for ${duration(silent_s)}` : state),
  },
  { key: "step", title: "Step", text: ({ step, max_iters }) => (max_iters == null ? number(step) : `${number(step)} of ${number(max_iters)}`) },
  { key: "train_loss", title: "Training loss" },
  { key: "val_loss", title: "Validation loss" },
  { key: "best_val_loss", title: "Best", hint: "The lowest validation loss so far" },
  { key: "val_loss_exact", title: "Whole", hint: "The loss over the whole validation text", rare: true },
  { key: "tokens_per_s", title: "Tokens/s", text: ({ tokens_per_s }) => short(tokens_per_s) },
  { key: "left_s", title: "Time left", text: ({ left_s }) => (left_s == null ? "" : duration(left_s)) },
  { key: "params", title: "Parameters", text: ({ params }) => short(params) },
  { key: "started", title: "Started", text: ({ started }) => (started == null ? "–" : day.format(started * 1000)) },
  { key: "data", title: "Text", words: true, text: ({ data }) => oneLine(data ?? "–"), rare: true },
];

const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

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
  #view = null;
  #stop = new AbortController();
  #asking = null;
  #timer;
  #lines = new Map();
  #made = "";

  #error = h("p", { className: "error", role: "alert", hidden: true });
  #filter = h("input", { type: "search", placeholder: "name, state, n_layer=4, val_loss<1.8", autocomplete: "off", spellcheck: "false" });
  #count = h("span", { className: "faint", role: "status" });
  #bar = h("div", { className: "row ends" });
  #head = h("thead");
  #body = h("tbody");
  #none = h("p", { className: "empty", hidden: true });
  #table = h(
    "div",
    { className: "table tall runs", tabindex: "0", role: "region", "aria-label": "Runs; the up and down keys walk from row to row" },
    h("table", null, this.#head, this.#body),
  );
  #unit = h("select", null, ...Object.entries(UNITS).map(([value, title]) => h("option", { value }, title)));
  #logX = h("input", { type: "checkbox" });
  #logY = h("input", { type: "checkbox" });
  #training = h("input", { type: "checkbox", checked: true });
  #validation = h("input", { type: "checkbox", checked: true });
  #spread = h("input", { type: "checkbox", checked: true, title: "The least and the greatest training loss of the steps of each point" });
  #peaks = h("input", { type: "checkbox", title: "Makes room for the few highest values" });
  #smooth = h("select", null, ...HALVES.map((half) => h("option", { value: half }, half ? `half-life ${number(half)} steps` : "none")));
  #showAll = h("button", { type: "button", hidden: true, onclick: () => this.#zoom(null, true) }, "Show all");
  #notes = h("p", { className: "notes", hidden: true });
  #loss = h("kinglet-chart", { className: "large" });
  #small = QUANTITIES.map(() => h("kinglet-chart", { className: "small" }));
  #curves = h("section", { className: "stack", "aria-label": "Curves" });
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
    this.#bar.append(filter, h("div", { className: "buttons", role: "group", "aria-label": "Select" }, newest, none), this.#count);
    const knobs = h(
      "div",
      { className: "row" },
      along("Along", this.#unit),
      tick("Logarithmic", this.#logX),
      tick("Training", this.#training),
      tick("Spread", this.#spread),
      tick("Validation", this.#validation),
      tick("Logarithmic loss", this.#logY),
      tick("Peaks", this.#peaks),
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
    this.append(
      this.#error,
      h("section", { className: "stack", "aria-label": "Table of runs" }, this.#bar, this.#table, this.#none),
      this.#curves,
      this.#differ,
      this.#run,
      this.#tuned,
    );
    const charts = [this.#loss, ...this.#small];
    together(charts);
    charts.forEach((chart) => chart.addEventListener("view", ({ detail }) => this.#zoom(detail, false)));
    this.#tuned.addEventListener("look", ({ detail }) => this.#rows.has(detail) && this.#look(detail));
    this.#body.addEventListener("keydown", (event) => this.#walk(event));
    this.#filter.addEventListener("input", () => this.#changed());
    this.#unit.addEventListener("change", () => {
      this.#zoom(null, true);
      this.#changed();
    });
    for (const input of [this.#logX, this.#logY, this.#training, this.#validation, this.#spread, this.#peaks, this.#smooth])
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
    this.#looked = query.get("look");
    const sort = query.get("sort");
    if (sort) this.#sort = { key: sort.replace(/^-/, ""), down: sort.startsWith("-") };
    const view = query.get("view")?.split(",").map(Number);
    if (view?.length === 2 && view[0] < view[1]) this.#zoom(view, true);
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
      if (this.#take(answer, first)) this.#list();
      if (await this.#refresh()) this.#draw();
      this.#well();
    } catch (error) {
      if (error.name !== "AbortError") this.#ill(error);
    }
    this.#busy = false;
    if (this.isConnected && !document.hidden) this.#timer = setTimeout(() => this.#tick(), this.#hurry ? 0 : this.#pause);
  }

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
    this.#pause = PAUSE;
    if (this.#error.hidden) return;
    this.#error.hidden = true;
    say("The server answers again");
  }

  /** Says once that the server cannot be asked, and asks less and less often. After that everything is asked anew. */
  #ill(error) {
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
    this.#cursor = null;
    const text = `${error.message} It is asked again from time to time.`;
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
    return all || left.length > 0 || runs.length > 0;
  }

  /** Reads on in the runs that are shown, if the list says that there is more; says whether there is something to draw. */
  async #refresh() {
    const stale = this.#wanted()
      .map((id) => this.#rows.get(id))
      .filter((run) => {
        if (!this.#histories.has(run.id)) this.#histories.set(run.id, new History(run.id));
        return this.#histories.get(run.id).seen !== sign(run);
      });
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

  /** Brings the table to what is known: rows that are the same stay as they are, and so does what has the focus. */
  #list() {
    const terms = this.#filter.value.trim().split(/\s+/).filter(Boolean).map(term);
    const seen = [...this.#rows.values()].filter((run) => terms.every((matches) => matches(run)));
    const newest = seen.sort((a, b) => a.order - b.order);
    this.#assign(
      newest
        .filter(({ id }, i) => (this.#chosen ? this.#chosen.has(id) : i < AT_FIRST))
        .slice(0, MOST)
        .map(({ id }) => id),
    );
    const columns = this.#columns();
    this.#heads(columns);
    const { key, down } = this.#sort;
    const column = columns.find((column) => column.key === key);
    const order = column ? newest.toSorted((a, b) => compare(value(column, a), value(column, b), down)) : newest;
    for (const id of this.#lines.keys()) if (!this.#rows.has(id)) this.#lines.delete(id);
    const lines = order.map((run) => this.#line(run, columns));
    const same = lines.length === this.#body.childElementCount && lines.every((line, i) => line === this.#body.children[i]);
    if (!same) this.#replace(lines);
    this.#rove(order.some(({ id }) => id === this.#here) ? this.#here : order[0]?.id);
    this.#tell(seen.length);
  }

  /** Puts the rows in their order; what had the focus keeps it. */
  #replace(lines) {
    const held = this.#body.contains(document.activeElement) ? document.activeElement : null;
    this.#body.replaceChildren(...lines);
    if (held?.isConnected) held.focus({ preventScroll: true });
  }

  #here = null;

  /** Of a hundred rows, the tab key stops at one; the arrow keys walk from there. */
  #rove(here) {
    this.#here = here;
    for (const [id, { pick, open }] of this.#lines) {
      const stop = id === here ? 0 : -1;
      if (pick.tabIndex !== stop) pick.tabIndex = open.tabIndex = stop;
    }
  }

  #walk(event) {
    const row = event.target.closest("tr");
    const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
    if (!next) return;
    event.preventDefault();
    next.querySelector(event.target.tagName.toLowerCase())?.focus();
  }

  #tell(seen) {
    const running = [...this.#rows.values()].filter(({ state }) => state === "running").length;
    const parts = [
      seen === this.#rows.size ? `${number(seen)} ${seen === 1 ? "run" : "runs"}` : `${number(seen)} of ${number(this.#rows.size)} runs`,
      running && `${number(running)} running`,
      `${number(this.#slots.size)} selected`,
    ];
    const text = parts.filter(Boolean).join(" · ");
    if (this.#count.textContent !== text) this.#count.textContent = text;
    this.#bar.hidden = !this.#rows.size;
    this.#table.hidden = !seen;
    this.#none.hidden = seen > 0;
    this.#none.textContent = this.#rows.size
      ? `No run matches. ${this.#keys.length ? `Settings that differ between the runs: ${this.#keys.map(oneLine).join(", ")}.` : ""}`
      : "There are no runs in the folders served yet. Start one: kinglet train";
    this.#curves.hidden = !this.#slots.size;
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

  #columns() {
    const rows = [...this.#rows.values()];
    const useful = COLUMNS.filter(
      ({ key, rare }) => !rare || (key === "data" ? new Set(rows.map((run) => run.data)).size > 1 : rows.some((run) => run[key] != null)),
    );
    const own = this.#keys.filter((key) => !useful.some((column) => column.key === key));
    const settings = own.map((key) => ({
      key,
      title: clipped(oneLine(key), 24),
      own: true,
      text: ({ differs }) => clipped(setting(differs?.[key]), 40),
    }));
    const least = useful.findIndex(({ key }) => key === "started");
    return [...useful.slice(0, least), ...settings, ...useful.slice(least)];
  }

  #heads(columns) {
    const made = JSON.stringify([columns.map(({ key }) => key), this.#sort]);
    if (made === this.#made) return;
    const held = this.#head.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    if (JSON.stringify(columns.map(({ key }) => key)) !== JSON.stringify(this.#shownKeys)) this.#lines.clear();
    this.#shownKeys = columns.map(({ key }) => key);
    this.#made = made;
    const head = (key, title, className, hint) => {
      const sorted = this.#sort.key === key;
      const button = h(
        "button",
        { type: "button", "data-key": key, title: hint, onclick: () => this.#order(key) },
        title,
        sorted ? (this.#sort.down ? " ↓" : " ↑") : "",
      );
      return h("th", { scope: "col", className, "aria-sort": sorted ? (this.#sort.down ? "descending" : "ascending") : "none" }, button);
    };
    this.#head.replaceChildren(
      h(
        "tr",
        null,
        h("th", { scope: "col", className: "pick" }, h("span", { className: "unseen" }, "Curve")),
        head("id", "Run", "name"),
        columns.map(({ key, title, words, hint }) => head(key, title, words ? null : "number", hint)),
      ),
    );
    if (held) this.#head.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus();
  }

  #shownKeys = [];

  #order(key) {
    const { key: old, down } = this.#sort;
    this.#sort = old !== key ? { key, down: false } : down ? { key: null, down: false } : { key, down: true };
    this.#changed();
    say(this.#sort.key ? `Sorted by ${key}, ${this.#sort.down ? "descending" : "ascending"}` : "Newest first");
  }

  /** The row of a run in the table. Only what is not as it was is touched. */
  #line(run, columns) {
    let line = this.#lines.get(run.id);
    if (!line) this.#lines.set(run.id, (line = this.#newLine(run, columns)));
    const slot = this.#slots.get(run.id);
    if (line.slot !== slot) {
      line.slot = slot;
      line.pick.checked = slot !== undefined;
      line.sign.replaceChildren(...(slot === undefined ? [] : [swatch(slot)]));
    }
    const looked = String(run.id === this.#lookedAt());
    if (line.open.getAttribute("aria-pressed") !== looked) line.open.setAttribute("aria-pressed", looked);
    columns.forEach((column, i) => {
      const text = column.text ? column.text(run) : number(run[column.key]);
      if (line.cells[i].textContent !== text) line.cells[i].textContent = text;
    });
    if (line.row.dataset.state !== run.state) line.row.dataset.state = run.state;
    return line.row;
  }

  #newLine({ id }, columns) {
    const name = oneLine(id);
    const pick = h("input", { type: "checkbox", id: newId("pick"), "aria-label": `Curve of ${name}`, onchange: () => this.#pick(id, pick) });
    const sign = h("label", { for: pick.id, className: "sign" });
    const open = h("button", { type: "button", className: "quiet", title: name, onclick: () => this.#look(id) }, h("bdi", null, name));
    const cells = columns.map(({ words }) => h("td", { className: words ? null : "number" }));
    const row = h(
      "tr",
      { onfocusin: () => this.#rove(id) },
      h("td", { className: "pick" }, h("div", null, pick, sign)),
      h("th", { scope: "row", className: "name" }, open),
      cells,
    );
    return { row, pick, sign, open, cells };
  }

  #pick(id, pick) {
    const chosen = new Set(this.#chosen ?? this.#slots.keys());
    if (pick.checked && this.#slots.size >= MOST) {
      pick.checked = false;
      say(`At most ${MOST} runs are drawn at once`);
      return;
    }
    if (pick.checked) chosen.add(id);
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
    const ends = shown.map(({ history }) => Math.max(0, ...history.along(unit, history.steps.step.slice(-1)).filter(Number.isFinite)));
    const x = {
      label: UNITS[unit].toLowerCase(),
      log: this.#logX.checked,
      time: unit === "time",
      whole: unit !== "time",
      domain: [0, Math.max(...ends)],
    };
    const of = `${shown.length} ${shown.length === 1 ? "run" : "runs"}.`;
    this.#loss.show({
      title: +this.#smooth.value && this.#training.checked ? "Loss (training smoothed)" : "Loss",
      about: `${this.#losses().join(" and ")} of ${of}`,
      x,
      y: { label: "nats per token", log: this.#logY.checked, calm: !this.#peaks.checked },
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
        y: { label, calm: key === "grad_norm" && !this.#peaks.checked },
        follows: true,
        series: shown.map((one) => this.#series(one, unit, key)),
      }),
    );
    this.#say(shown, unit);
    this.#compare(shown);
    this.#show();
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

/** The lines of reference: each value once, with the names of those that have it, unless all do. */
function references(shown) {
  const lines = new Map();
  const put = (label, y, id) => {
    if (y == null) return;
    const key = `${label} ${number(y)}`;
    const line = lines.get(key) ?? lines.set(key, { y, name: label, label: key, ids: [] }).get(key);
    line.ids.push(id);
  };
  for (const { run, history } of shown) {
    put("entropy floor", history.floor, run.id);
    put(history.baseline?.name, history.baseline?.nats_per_token, run.id);
  }
  // A run that is not done does not know its own yet; where all have one text, it is that of the others.
  const one = new Set(shown.map(({ run }) => run.data)).size === 1 && lines.size === new Set([...lines.values()].map(({ name }) => name)).size;
  return [...lines.values()].map(({ y, label, ids }) => ({
    y,
    label: one || ids.length === shown.length ? label : `${label} (${ids.length === 1 ? clipped(ids[0], 24) : `${ids.length} of the runs`})`,
  }));
}

/** The events of a run that are worth a mark. That it is done, one sees. */
function flags({ run, slot, history }, unit) {
  const texts = new Map();
  for (const { step, kind, text } of history.marks) if (kind !== "done") texts.set(step, [...(texts.get(step) ?? []), text]);
  const places = history.along(unit, [...texts.keys()]);
  const name = clipped(run.id, 40);
  return [...texts]
    .map(([step, all], i) => ({ x: places[i], slot, text: `${name}, step ${number(step)}: ${all.join(" ")}` }))
    .filter(({ x }) => !Number.isNaN(x));
}

/** What a column has of a run, to sort by. */
function value(column, run) {
  return column.own ? run.differs?.[column.key] : run[column.key];
}

/** Numbers by size, other values by their text; what is not known comes last, whichever way. */
function compare(a, b, down) {
  if (a == null || b == null) return (a == null) - (b == null);
  const order = typeof a === "number" && typeof b === "number" ? a - b : setting(a).localeCompare(setting(b), "en", { numeric: true });
  return down ? -order : order;
}

/** One word of the filter: `key=value` (also `!=`, `<`, `>`, `<=`, `>=`), or a part of a name or a state. */
function term(text) {
  const [, key, sign, wanted] = /^([\w.-]+)(!=|<=|>=|=|<|>)(.+)$/.exec(text) ?? [];
  const part = text.toLowerCase();
  const plain = (run) => run.id.toLowerCase().includes(part) || run.state.startsWith(part);
  if (!key) return plain;
  return (run) => {
    const found = run.differs?.[key] ?? run[key];
    if (found == null) return plain(run);
    const [a, b] = [Number(found), Number(wanted)];
    const same = (typeof found === "number" && a === b) || setting(found).toLowerCase() === wanted.toLowerCase();
    if (sign === "=" || sign === "!=") return same === (sign === "=");
    return sign[0] === "<" ? a < b || (sign === "<=" && a === b) : a > b || (sign === ">=" && a === b);
  };
}

customElements.define("kinglet-runs", Runs);
