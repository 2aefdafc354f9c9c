// Which page is shown, and in which colours. A page is a custom element; its address is `#name?what=it&needs=`.

import { keepToken } from "./api.js";
import { h } from "./dom.js";
import "./write.js";
import "./compare.js";
import "./chat.js";
import "./read.js";
import "./attention.js";
import "./runs.js";

const PAGES = [
  ["write", "Write"],
  ["compare", "Compare"],
  ["chat", "Chat"],
  ["read", "Read"],
  ["attention", "Look inside"],
  ["runs", "Runs"],
];

const main = document.getElementById("main");
// Checkers take a link to `#…` that is out of sight for one that skips to a part of the page; these lead to pages.
const links = PAGES.map(([name, title]) => h("a", { href: `./#${name}` }, title));
document.getElementById("pages").append(...links);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
});

/**
 * Shows the page that the address names. A page reads the rest of the address when it is connected, and may write it with
 * `history.replaceState`, which comes here for nothing.
 */
function show() {
  let [name, query] = split(location.hash);
  const params = new URLSearchParams(query);
  if (name.startsWith("token=")) {
    keepToken(decodeURIComponent(name.slice("token=".length)));
    // The token is to stand in no history, and in no link that is given away.
    history.replaceState(null, "", "#write");
    [name, query] = ["write", ""];
  }
  const at = Math.max(0, PAGES.findIndex(([page]) => page === name));
  const [page, title] = PAGES[at];
  links.forEach((link, i) => (i === at ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")));
  links[at].scrollIntoView({ block: "nearest", inline: "center" });
  document.title = `${title} · kinglet`;
  const element = document.createElement(`kinglet-${page}`);
  element.query = params;
  main.replaceChildren(h("h1", { className: "unseen" }, title), element);
}

function split(hash) {
  const text = hash.slice(1);
  const at = text.indexOf("?");
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

const THEMES = ["system", "light", "dark"];
const theme = document.getElementById("theme");

function paint() {
  const chosen = localStorage.getItem("kinglet-theme") ?? "system";
  document.documentElement.dataset.theme = chosen;
  theme.textContent = { system: "◐", light: "☀", dark: "☾" }[chosen] ?? "◐";
  theme.setAttribute("aria-label", `Colours: ${chosen}. Change them`);
  theme.title = `Colours: ${chosen}`;
  // What is drawn on a canvas must be drawn again.
  dispatchEvent(new Event("kinglet-theme"));
}

theme.addEventListener("click", () => {
  const at = THEMES.indexOf(localStorage.getItem("kinglet-theme") ?? "system");
  localStorage.setItem("kinglet-theme", THEMES[(at + 1) % THEMES.length]);
  paint();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
// Another tab chose other colours.
addEventListener("storage", ({ key }) => key === "kinglet-theme" && paint());

paint();
show();
addEventListener("hashchange", () => {
  show();
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
});
