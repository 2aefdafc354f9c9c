// The table of runs, which is the legend of the curves: its columns, its rows, and the filter that speaks of them.
// Rows and cells that are as they were are not touched, so that what has the focus keeps it, and nothing is laid out again.

import { swatch } from "./chart.js";
import { clipped, duration, h, newId, number, oneLine, say, short } from "./dom.js";
import { setting } from "./run.js";

/** So many settings stand in the table unasked. */
const FEW = 4;

const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/** Columns: of a run its value (for sorting), and how it is shown, if not as a number. Settings that differ come before `started`. */
const COLUMNS = [
  {
    key: "state",
    title: "State",
    words: true,
    text: ({ state, silent_s }) => (state === "running" && silent_s > 60 ? `running, silent for ${duration(silent_s)}` : state),
  },
  { key: "step", title: "Step", text: ({ step, max_iters }) => (max_iters == null ? number(step) : `${number(step)} of ${number(max_iters)}`) },
  { key: "train_loss", title: "Training loss", also: "training" },
  { key: "val_loss", title: "Validation loss", also: "validation" },
  { key: "best_val_loss", title: "Best", hint: "the lowest validation loss so far" },
  {
    key: "val_loss_exact",
    title: "Exact validation",
    also: "exact",
    hint: "the loss over the whole validation text, measured at the end",
    rare: true,
  },
  { key: "tokens_per_s", title: "Tokens/s", also: "speed", text: ({ tokens_per_s }) => short(tokens_per_s) },
  { key: "left_s", title: "Time left", text: ({ left_s }) => (left_s == null ? "" : duration(left_s)) },
  { key: "params", title: "Parameters", text: ({ params }) => short(params) },
  { key: "started", title: "Started", text: ({ started }) => (started == null ? "–" : day.format(started * 1000)) },
  { key: "data", title: "Text", words: true, text: ({ data }) => oneLine(data ?? "–"), rare: true },
];

/**
 * The table. `show` brings it to what is known. Events: `pick` (`detail`: `{id, on}`), `look` (an id), `order` (`{key, down}`; the key is
 * null for the newest first), `settings` (whether they are to be shown).
 */
export class RunsTable extends HTMLElement {
  #lines = new Map();
  #made = "";
  #shownKeys = "";
  #here = null;
  #head = h("thead");
  #body = h("tbody");
  #about = h("p", { className: "notes" });
  #region = h(
    "div",
    { className: "table tall runs", tabindex: "0", role: "region", "aria-label": "Runs; the up and down keys walk from row to row" },
    h("table", null, this.#head, this.#body),
  );

  connectedCallback() {
    if (this.firstChild) return;
    this.className = "stack";
    this.append(this.#region, this.#about);
    this.#body.addEventListener("keydown", (event) => this.#walk(event));
    this.#head.addEventListener("keydown", (event) => this.#walkHead(event));
  }

  /**
   * Shows the runs `seen` (the newest first) of `rows` in the order `sort`, with the settings that differ if they are few or `open`;
   * `slots` has the curve of each run that has one, and `looked` is the run that is looked at.
   */
  show({ rows, seen, keys, sort, open, slots, looked }) {
    const columns = this.#columns(rows, keys, open);
    this.#heads(columns, sort);
    const column = [{ key: "id" }, ...columns].find(({ key }) => key === sort.key);
    const order = column ? seen.toSorted((a, b) => compare(value(column, a), value(column, b), sort.down)) : seen;
    const known = new Set(rows.map(({ id }) => id));
    for (const id of this.#lines.keys()) if (!known.has(id)) this.#lines.delete(id);
    const lines = order.map((run) => this.#line(run, columns, slots.get(run.id), run.id === looked));
    const same = lines.length === this.#body.childElementCount && lines.every((line, i) => line === this.#body.children[i]);
    if (!same) this.#replace(lines);
    this.#rove(order.some(({ id }) => id === this.#here) ? this.#here : order[0]?.id);
  }

  /** The keyboard goes on at a run. */
  enter(id) {
    this.#region.scrollIntoView({ block: "nearest" });
    const { open } = this.#lines.get(id) ?? {};
    (open?.isConnected ? open : this.#region).focus({ preventScroll: true });
    open?.scrollIntoView({ block: "nearest" });
  }

  #send(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** Puts the rows in their order; what had the focus keeps it. */
  #replace(lines) {
    const held = this.#body.contains(document.activeElement) ? document.activeElement : null;
    this.#body.replaceChildren(...lines);
    if (held?.isConnected) held.focus({ preventScroll: true });
  }

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

  /** The columns that say something. */
  #columns(rows, keys, open) {
    const useful = COLUMNS.filter(
      ({ key, rare }) => !rare || (key === "data" ? new Set(rows.map((run) => run.data)).size > 1 : rows.some((run) => run[key] != null)),
    );
    const own = open ? keys.filter((key) => !useful.some((column) => column.key === key)) : [];
    const settings = own.map((key) => ({
      key,
      title: clipped(oneLine(key), 24),
      own: true,
      text: ({ differs }) => clipped(setting(differs?.[key]), 40),
    }));
    const least = useful.findIndex(({ key }) => key === "started");
    return [...useful.slice(0, least), ...settings, ...useful.slice(least)];
  }

  #heads(columns, sort) {
    const made = JSON.stringify([columns.map(({ key }) => key), sort]);
    if (made === this.#made) return;
    const held = this.#head.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const keys = JSON.stringify(columns.map(({ key }) => key));
    if (keys !== this.#shownKeys) this.#lines.clear();
    this.#shownKeys = keys;
    this.#made = made;
    const head = ({ key, title, words, className }) => {
      const sorted = sort.key === key;
      const sign = sorted ? (sort.down ? " ↓" : " ↑") : "";
      const button = h("button", { type: "button", "data-key": key, tabIndex: -1, onclick: () => this.#order(sort, key, title) }, title, sign);
      const aria = sorted ? (sort.down ? "descending" : "ascending") : "none";
      return h("th", { scope: "col", className: className ?? (words ? null : "number"), "aria-sort": aria }, button);
    };
    const first = h("th", { scope: "col", className: "pick" }, h("span", { className: "unseen" }, "Curve"));
    this.#head.replaceChildren(h("tr", null, first, [{ key: "id", title: "Run", className: "name" }, ...columns].map(head)));
    const buttons = [...this.#head.querySelectorAll("button")];
    const stop = buttons.find(({ dataset }) => dataset.key === (held ?? sort.key)) ?? buttons[0];
    stop.tabIndex = 0;
    if (held) stop.focus({ preventScroll: true });
    this.#about.textContent = [
      ...columns.filter(({ hint }) => hint).map(({ title, hint }) => `${title}: ${hint}.`),
      "A title sorts; in the row of titles, the arrow keys go from one to the next.",
    ].join(" ");
  }

  /** The head has one stop for the tab key, too. */
  #walkHead(event) {
    const buttons = [...this.#head.querySelectorAll("button")];
    const at = buttons.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (!buttons[to]) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    buttons[to].tabIndex = 0;
    buttons[to].focus();
  }

  #order({ key: old, down }, key, title) {
    const sort = old !== key ? { key, down: false } : down ? { key: null, down: false } : { key, down: true };
    this.#send("order", sort);
    say(sort.key ? `Sorted by ${title}, ${sort.down ? "descending" : "ascending"}` : "Newest first");
  }

  /** The row of a run. Only what is not as it was is touched. */
  #line(run, columns, slot, looked) {
    let line = this.#lines.get(run.id);
    if (!line) this.#lines.set(run.id, (line = this.#newLine(run, columns)));
    if (line.slot !== slot) {
      line.slot = slot;
      line.pick.checked = slot !== undefined;
      line.sign.replaceChildren(...(slot === undefined ? [] : [swatch(slot)]));
    }
    if (line.looked !== looked) line.open.setAttribute("aria-pressed", String((line.looked = looked)));
    // What came in one answer of the server is one object: it has the same texts.
    if (line.run === run) return line.row;
    line.run = run;
    columns.forEach((column, i) => {
      const text = column.text ? column.text(run) : number(run[column.key]);
      const cell = line.cells[i];
      if (line.texts[i] === text) return;
      line.texts[i] = text;
      // A text node that stays costs less than a new one.
      if (cell.firstChild) cell.firstChild.data = text;
      else cell.textContent = text;
    });
    if (line.row.dataset.state !== run.state) line.row.dataset.state = run.state;
    return line.row;
  }

  #newLine({ id }, columns) {
    const name = oneLine(id);
    const picked = () => {
      const on = pick.checked;
      // Whether it has a curve is not for the box to say.
      pick.checked = !on;
      this.#send("pick", { id, on });
    };
    const pick = h("input", { type: "checkbox", id: newId("pick"), "aria-label": `Curve of ${name}`, onchange: picked });
    const sign = h("label", { for: pick.id, className: "sign" });
    const open = h("button", { type: "button", className: "quiet", title: name, onclick: () => this.#send("look", id) }, h("bdi", null, name));
    const cells = columns.map(({ words }) => h("td", { className: words ? null : "number" }));
    const row = h(
      "tr",
      { onfocusin: () => this.#rove(id) },
      h("td", { className: "pick" }, h("div", null, pick, sign)),
      h("th", { scope: "row", className: "name" }, open),
      cells,
    );
    return { row, pick, sign, open, cells, texts: [] };
  }
}

customElements.define("kinglet-runs-table", RunsTable);

/** Whether so many settings are too many to stand in the table unasked. */
export function tooMany(keys) {
  return keys.length > FEW;
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

/** A name as the filter compares it: capitals, blanks and underscores make no difference. */
const plain = (name) => name.toLowerCase().replace(/[\s_-]/g, "");

const NAMES = new Map(
  [...COLUMNS.map((column) => [column.key, column]), ["id", { title: "Run", also: "name" }]].flatMap(([key, { title, also }]) =>
    [key, title, also].filter(Boolean).map((name) => [plain(name), key]),
  ),
);
NAMES.set("loss", "val_loss");

const SIGNS = /\s*(!=|<=|>=|=|<|>)\s*/g;
const TITLES = COLUMNS.filter(({ title }) => title.includes(" ")).map(({ key, title }) => [key, new RegExp(`\\b${title}(?=[!<>=])`, "gi")]);

/**
 * A filter: words with blanks between them, each `name<value` (also `=`, `!=`, `>`, `<=`, `>=`; the name is a column's title or a
 * setting's), or a part of a run's name or state. `matches(run)`, and `unknown`: the names that are none.
 */
export function filter(text, rows, keys) {
  let short = text.trim().replace(SIGNS, "$1");
  for (const [key, title] of TITLES) short = short.replace(title, key);
  const unknown = [];
  const terms = short.split(/\s+/).filter(Boolean).map((word) => term(word, rows, keys, unknown));
  return { matches: (run) => terms.every((matches) => matches(run)), unknown };
}

/** What there is to filter by, in words. */
export function filterable(keys) {
  const settings = keys.length ? ` Settings that differ: ${keys.map((key) => clipped(oneLine(key), 40)).join(", ")}.` : "";
  return `Columns: ${COLUMNS.map(({ title }) => title).join(", ")}.${settings}`;
}

function term(word, rows, keys, unknown) {
  const part = word.toLowerCase();
  const named = (run) => run.id.toLowerCase().includes(part) || run.state.startsWith(part);
  const [, name, sign, wanted] = /^([^!<>=]+)(!=|<=|>=|=|<|>)(.*)$/.exec(word) ?? [];
  if (!name || rows.some(named)) return named;
  const column = NAMES.get(plain(name));
  const key = keys.find((key) => plain(key) === plain(name));
  if (!column && key === undefined) {
    unknown.push(name);
    return () => false;
  }
  // A word that is being written says nothing yet.
  if (!wanted) return () => true;
  const b = size(wanted);
  return (run) => {
    const found = (key !== undefined ? run.differs?.[key] : null) ?? run[column];
    if (found == null) return false;
    const a = Number(found);
    const text = setting(found).toLowerCase();
    const same = (typeof found === "number" && a === b) || text === wanted.toLowerCase() || (column === "id" && text.includes(wanted.toLowerCase()));
    if (sign === "=" || sign === "!=") return same === (sign === "=");
    return sign[0] === "<" ? a < b || (sign === "<=" && a === b) : a > b || (sign === ">=" && a === b);
  };
}

/** A number as people write it: 1,000 and 2.7M too. */
function size(text) {
  const [, digits, unit] = /^(.*?)([kMG]?)$/i.exec(text.replaceAll(",", ""));
  return digits === "" ? NaN : Number(digits) * { "": 1, k: 1e3, m: 1e6, g: 1e9 }[unit.toLowerCase()];
}
