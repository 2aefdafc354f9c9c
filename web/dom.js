// Small things that every page needs. Text from models, runs and people becomes text nodes, never markup.

/**
 * Makes an element. Properties are attributes, except for `on…` (listeners), and what elements have as properties:
 * `className`, `value`, `checked`, `disabled`, `hidden`, `textContent`. Those that are null or undefined are left out.
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value == null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

const PROPERTIES = new Set(["className", "value", "checked", "disabled", "hidden", "textContent", "tabIndex"]);

let made = 0;

/** A name for an element that no other has. */
export function newId(word) {
  made += 1;
  return `${word}-${made}`;
}

/** A control with its label before it, and a hint behind it, if there is one. */
export function field(label, control, hint) {
  control.id ||= newId("field");
  const about = hint && h("small", { id: `${control.id}-hint`, className: "hint" }, hint);
  if (about) control.setAttribute("aria-describedby", about.id);
  return h("div", { className: "field" }, h("label", { for: control.id }, label), control, about);
}

/** Tells people who do not see the page what has happened, at most once a second. */
export function say(what) {
  said = what;
  saying ??= setTimeout(() => {
    saying = undefined;
    document.getElementById("says").textContent = said;
  }, Math.max(0, last + 1000 - performance.now()));
  last = Math.max(last, performance.now());
}

let said, saying;
let last = 0;

/** A probability for people: three digits, and never 0 % or 100 % if it is not. */
export function percent(probability) {
  const p = probability * 100;
  if (!Number.isFinite(p)) return "–";
  if (p >= 99.95 && p < 100) return "> 99.9 %";
  if (p > 0 && p < 0.001) return "< 0.001 %";
  return `${p >= 10 ? p.toFixed(1) : p >= 1 ? p.toFixed(2) : p.toFixed(3)} %`;
}

/** A number for people, with so many digits in all. */
export function number(value, digits = 4) {
  if (value == null || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e7) return value.toExponential(Math.max(0, digits - 2));
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

/** A large number in short: 2.7 M. */
export function short(value) {
  if (value == null || !Number.isFinite(value)) return "–";
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (Math.abs(value) >= size) return `${number(value / size, 3)}${unit}`;
  }
  return number(value, 3);
}

/** Seconds for people. */
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${number(seconds, 2)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.round((seconds % 86400) / 3600)} h`;
}

/** How a piece of text is shown where it stands alone: blanks and what cannot be seen get a sign. */
export function shown(text) {
  return text.replace(/[\u0000-\u0020\u007f-\u00a0\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu, sign);
}

/** The same within a text, where blanks and line ends do what they do. */
export function readable(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, sign);
}

function sign(char) {
  const code = char.codePointAt(0);
  if (char === " ") return "␣";
  if (char === "\n") return "↵";
  if (char === "\t") return "⇥";
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return "␡";
  return `⟨${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

/** Whether the person asked for little motion. */
export const stillness = matchMedia("(prefers-reduced-motion: reduce)");
