// Runs: the main thing that a person does there; and with a hundred runs, whose names try to be markup.

import { readFileSync } from "node:fs";
import { assert, check, hold, most, open, tell } from "./browser.mjs";

const loss = (page) => page.getByRole("slider", { name: /^Loss/ });

/** Waits until nothing is on its way any more. */
const settled = (page) => page.waitForLoadState("networkidle");

export async function runs() {
  const { page, wrongs, close } = await open("#runs");
  await check("Runs, by mouse: two runs beside each other, and what differs in them", async () => {
    await page.getByRole("button", { name: "None", exact: true }).click();
    await page.getByText("Select runs to see their curves").waitFor();
    await page.getByRole("checkbox", { name: "Curve of text" }).check();
    await page.getByRole("checkbox", { name: "Curve of pieces" }).check();
    await settled(page);
    const all = await page.locator("kinglet-runs").textContent();
    assert(all.includes("position") && all.includes("rotary"), "what differs is told");
    await page.getByRole("button", { name: "Validation loss" }).click();
    assert((await page.locator("th[aria-sort]:not([aria-sort=none])").count()) === 1, "the table is sorted");
    const box = await loss(page).boundingBox();
    await page.mouse.move(box.x + box.width * 0.4, box.y + 80);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.8, box.y + 80, { steps: 5 });
    await page.mouse.up();
    await page.waitForFunction(() => location.hash.includes("view="));
    await page.getByRole("button", { name: "Show all" }).first().click();
    await page.waitForFunction(() => !location.hash.includes("view="));
    await page.getByText("As a table").first().click();
    await page.locator("kinglet-chart table tbody tr").first().waitFor();
  });
  await check("Runs, by keyboard: a run is found, chosen and opened; the chart is walked, zoomed and shown whole", async () => {
    await page.getByLabel("Filter").fill("no_such=1");
    await page.getByText("No run matches: no_such").waitFor();
    await page.getByLabel("Filter").fill("Validation loss < 1e3 STEP>0 text");
    await page.getByRole("checkbox", { name: "Curve of text" }).waitFor();
    await page.getByLabel("Filter").fill("text");
    await page.getByLabel("Filter").press("Tab");
    await page.getByRole("checkbox", { name: "Curve of text" }).focus();
    await page.keyboard.press("Space");
    assert(!(await page.getByRole("checkbox", { name: "Curve of text" }).isChecked()), "Space takes it away");
    await page.keyboard.press("Space");
    await settled(page);
    await loss(page).focus();
    for (const key of ["Home", "ArrowRight", "+"]) await page.keyboard.press(key);
    await page.waitForFunction(() => location.hash.includes("view="));
    await page.keyboard.press("0");
    await page.waitForFunction(() => !location.hash.includes("view="));
    await page.getByRole("button", { name: "text", exact: true }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "text", exact: true }).waitFor();
    await page.getByLabel("Sample written at").waitFor();
    await page.getByRole("button", { name: "Back to the table" }).press("Enter");
    assert(await page.evaluate(() => !!document.activeElement.closest("kinglet-runs-table")), "the keyboard is in the table again");
  });
  await check("Runs: a chart has a heading once its data are there, and none before", async () => {
    let goOn;
    const before = async (page) => (goOn = await hold(page, "**/events?*"));
    const { page, close } = await open("#runs", { before });
    const headings = page.locator("kinglet-chart h3");
    await headings.first().waitFor({ state: "attached" });
    const seen = await headings.evaluateAll((all) => all.filter((one) => one.checkVisibility()).map((one) => one.textContent));
    assert(seen.every(Boolean), `headings: ${JSON.stringify(seen)}`);
    goOn();
    await headings.filter({ hasText: "Learning rate" }).waitFor();
    await close();
  });
  tell("Runs: nothing was asked elsewhere, nothing failed, no policy was broken", wrongs.length === 0, wrongs.join("\n"));
  await close();
}

/** A hundred runs of five thousand points. `pid` is the server's; what depends on the machine is measured only if `timed`. */
export async function many(pid, timed) {
  const { page, wrongs, close } = await open("#runs", { width: 1600, height: 900 });
  await check("100 runs of 5000 points are shown, whatever they are called", async () => {
    await page.waitForFunction(() => document.querySelectorAll("kinglet-runs tbody tr").length >= 100);
    await settledFor(page, 1500);
    const names = await page.locator("kinglet-runs tbody").first().textContent();
    assert(names.includes("<img src=x onerror=alert(1)>"), "markup is shown as text");
    assert((await page.locator("kinglet-runs img").count()) === 0 && (await page.evaluate(() => window.hurt === undefined)), "and is none");
  });
  await firstView(page, timed);
  await idle(page, pid, timed);
  if (timed) await zoom(page);
  await check("Runs of hostile names: one is opened, with its samples", async () => {
    await page.getByRole("button", { name: /onerror/ }).first().click();
    await page.getByLabel("Sample written at").waitFor();
    assert((await page.locator("kinglet-runs img").count()) === 0, "its samples are text");
  });
  tell("Hostile names: no script ran, nothing was asked elsewhere, no policy was broken", wrongs.length === 0, wrongs.join("\n"));
  await close();
}

async function settledFor(page, ms) {
  for (let last = -1; ; ) {
    const now = await page.evaluate(() => performance.getEntriesByType("resource").length);
    if (now === last) return;
    last = now;
    await page.waitForTimeout(ms);
  }
}

/** What was sent until the curves were there, and when they were. */
async function firstView(page, timed) {
  const [bytes, ms] = await page.evaluate(() => {
    const all = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
    const curves = all.filter(({ name }) => name.includes("/events"));
    const end = Math.max(...curves.map(({ responseEnd }) => responseEnd));
    const until = all.filter(({ startTime }) => startTime <= end);
    return [until.reduce((sum, { transferSize }) => sum + transferSize, 0), end];
  });
  most("Runs, first view of 100 runs: KB sent", Math.round(bytes / 1000), 300);
  if (timed) most("Runs, first view of 100 runs: ms until all curves have come", ms, 1000);
}

/** What a page that is open costs while nothing happens. */
async function idle(page, pid, timed) {
  const before = await page.evaluate(() => performance.getEntriesByType("resource").length);
  const [used, begun] = [processor(pid), performance.now()];
  await page.waitForTimeout(timed ? 20_000 : 12_000);
  const share = (processor(pid) - used) / ((performance.now() - begun) / 1000);
  const ticks = await page.evaluate((before) => performance.getEntriesByType("resource").slice(before).map(({ transferSize }) => transferSize), before);
  assert(ticks.length > 0, "the page asks");
  most("Runs, open and idle: bytes of the largest tick", Math.max(...ticks), 2000, `${ticks.length} ticks`);
  if (timed) most("Runs, open and idle, 100 runs: % of a core that the server takes", 100 * share, 1);
}

/** Seconds of processor time of a process. */
function processor(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (+fields[11] + +fields[12]) / 100;
}

/** How long the page is busy from a key that zooms until it is painted. */
async function zoom(page) {
  await loss(page).focus();
  const times = [];
  for (const key of ["+", "+", "-", "+", "-", "-", "+", "0", "+", "0"]) {
    times.push(
      await page.evaluate((key) => new Promise((done) => {
        const begun = performance.now();
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
        requestAnimationFrame(() => {
          const channel = new MessageChannel();
          channel.port1.onmessage = () => done(performance.now() - begun);
          channel.port2.postMessage(null);
        });
      }), key),
    );
    await page.waitForTimeout(300);
  }
  times.sort((a, b) => a - b);
  most("Runs, a zoom of 8 curves: ms until it is drawn, median of 10", times[5], 50, `the longest ${times.at(-1).toFixed(0)}`);
}
