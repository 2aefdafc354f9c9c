// Layer by layer: what the model would say next if it ended after each block.

import { bar, h, heads, number, percent } from "./dom.js";
import { named } from "./tokens.js";

/** The grid, and what each layer expects behind one token. `choose(at)` is called when a token is chosen. */
export class Lens {
  #grid = h("div", { className: "table lens", role: "region", tabindex: "0", "aria-label": "The likeliest next token, layer by layer" });
  #lists = h("div", { className: "table", role: "region", tabindex: "0", "aria-label": "What each layer expects" });
  #choose;
  #answer;
  #at = 0;
  section = h("section", { className: "stack" },
    h("h2", null, "Layer by layer"),
    h("p", { className: "faint" }, "The likeliest next token if the model ended after each block: tinted by its probability, " +
      "bold where it is the one that follows. Choose a column to see more."),
    this.#grid, this.#lists);

  constructor(choose) {
    this.#choose = choose;
    this.#grid.addEventListener("click", (event) => {
      const at = event.target.closest("[data-at]")?.dataset.at;
      if (at !== undefined) choose(+at);
    });
    this.#grid.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Shows an answer of the server. */
  show(answer) {
    this.#answer = answer;
    const { tokens, layers } = answer;
    const corner = h("th", { scope: "row" }, "Text");
    const heads = tokens.map((token, at) => this.#cell("th", at, named(token), { scope: "col" }));
    const rows = layers.map((layer) => h("tr", null, h("th", { scope: "row" }, layer.name), ...layer.positions.map(({ top }, at) => {
      const [first] = top;
      const p = first ? Math.exp(first.logprob) : 0;
      const cell = this.#cell("td", at, first ? named(first) : "–", { title: percent(p) });
      cell.style.setProperty("--surprise", p.toFixed(3));
      cell.classList.toggle("right", first !== undefined && first.id === tokens[at + 1]?.id);
      return cell;
    })));
    const follows = tokens.map((_, at) => this.#cell("td", at, tokens[at + 1] ? named(tokens[at + 1]) : "?", {}));
    this.#grid.replaceChildren(h("table", null, h("thead", null, h("tr", null, corner, ...heads)),
      h("tbody", null, ...rows, h("tr", { className: "follows" }, h("th", { scope: "row" }, "follows"), ...follows))));
  }

  #cell(tag, at, text, props) {
    const cell = h(tag, { className: "mono", ...props }, h("bdi", null, text));
    cell.dataset.at = at;
    return cell;
  }

  /** Shows what each layer expects behind a token. */
  choose(at) {
    if (!this.#answer) return;
    this.#at = at;
    for (const cell of this.#grid.querySelectorAll(".at")) cell.classList.remove("at");
    const column = this.#grid.querySelectorAll(`[data-at="${at}"]`);
    column.forEach((cell) => cell.classList.add("at"));
    this.#reveal(column[0]);
    this.#lists.replaceChildren(this.#table(at));
  }

  /** Scrolls the grid alone, never the page, and past the column that stays. */
  #reveal(cell) {
    const first = this.#grid.querySelector("th").offsetWidth;
    const [left, right] = [cell.offsetLeft - first - 8, cell.offsetLeft + cell.offsetWidth + 8 - this.#grid.clientWidth];
    if (this.#grid.scrollLeft > left) this.#grid.scrollLeft = left;
    else if (this.#grid.scrollLeft < right) this.#grid.scrollLeft = right;
  }

  #table(at) {
    const { tokens, layers } = this.#answer;
    const next = tokens[at + 1];
    const rows = layers.map(({ name, positions }) => {
      const { top, logprob, rank } = positions[at];
      const guess = (token) => h("span", null, h("bdi", { className: "mono" }, named(token)), ` ${percent(Math.exp(token.logprob))}`);
      const really = next ? this.#really(Math.exp(logprob), rank) : [];
      return h("tr", null, h("th", { scope: "row" }, name), ...really, h("td", null, h("div", { className: "guesses" }, ...top.map(guess))));
    });
    const quote = (token) => h("bdi", { className: "mono" }, `“${named(token)}”`);
    const follows = next ? [", really follows ", quote(next)] : [", nothing follows in this text"];
    const caption = h("caption", null, "After token ", number(at + 1), ", ", quote(tokens[at]), ...follows);
    const figures = next ? [["As a bar", "unseen"], ["Its probability", "number"], ["Rank", "number"]] : [];
    return h("table", { className: "expected" }, caption, heads(["Layer"], ...figures, ["Expected"]), h("tbody", null, ...rows));
  }

  /** What a layer says of the token that follows in the text. */
  #really(p, rank) {
    return [
      h("td", { className: "bar-cell" }, bar(p)),
      h("td", { className: "number" }, percent(p)),
      h("td", { className: "number" }, number(rank)),
    ];
  }

  #key(event) {
    const last = (this.#answer?.tokens.length ?? 0) - 1;
    const to = { ArrowRight: this.#at + 1, ArrowLeft: this.#at - 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.#choose(Math.max(0, Math.min(last, to)));
  }
}
