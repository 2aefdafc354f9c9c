// A Chromium, and everything that a page must not do: fail, ask elsewhere, break its policy.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [modules, executablePath, url, folder] = process.argv.slice(2);
const require = createRequire(join(modules, "x.js"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

export { url, folder };

export const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });

/** Says whether something holds. */
export function tell(what, ok, note = "") {
  console.log(JSON.stringify({ what, ok: Boolean(ok), note: String(note).slice(0, 1500) }));
}

/** Says how much something is, and how much it may be. */
export function most(what, measured, bound, note = "") {
  console.log(JSON.stringify({ what, measured, bound, note: String(note).slice(0, 1500) }));
}

/** Makes a check; one that fails does not keep the others from being made. */
export async function check(what, act) {
  try {
    await act();
    tell(what, true);
  } catch (error) {
    tell(what, false, error.stack ?? error);
  }
}

export function assert(truth, what) {
  if (!truth) throw new Error(what);
}

/** A page of its own at this address; `before(page)` is done before it is loaded. `wrongs` has what it did that it must not do. */
export async function open(hash, { width = 1000, height = 800, colorScheme = "light", before = () => null, ...more } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme, permissions: ["clipboard-read", "clipboard-write"], ...more });
  context.setDefaultTimeout(60_000);
  const page = await context.newPage();
  const wrongs = [];
  page.on("console", (said) => ["error", "warning"].includes(said.type()) && wrongs.push(`console: ${said.text()} ${said.location().url}`));
  page.on("pageerror", (error) => wrongs.push(`error: ${error.stack ?? error}`));
  page.on("dialog", (dialog) => (wrongs.push(`dialog: ${dialog.message()}`), dialog.dismiss()));
  page.on("request", (request) => {
    const to = request.url();
    if (!to.startsWith(url) && !to.startsWith("data:") && !to.startsWith("blob:")) wrongs.push(`request: ${to}`);
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  await before(page);
  await page.goto(`${url}/${hash}`);
  return { page, wrongs, close: () => context.close() };
}

/** Holds back the requests to these addresses. The function that it returns lets them go on. */
export async function hold(page, addresses) {
  let goOn;
  const held = new Promise((resolve) => (goOn = resolve));
  // A request that was given up meanwhile cannot go on.
  await page.route(addresses, (route) => held.then(() => route.continue()).catch(() => {}));
  return goOn;
}

/** What axe finds wrong with the page as it is. */
export async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  return found.violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`);
}

/** Whether nothing is wider than the window. */
export function fits(page) {
  return page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth);
}
