// The page of runs, open and live, until standard input ends.
//
//     node stay.mjs NODE_MODULES CHROMIUM URL

import { browser, open } from "./browser.mjs";

const { page } = await open("#runs");
await page.locator("kinglet-runs tbody tr").first().waitFor();
console.log("open");
process.stdin.on("end", () => browser.close());
process.stdin.resume();
