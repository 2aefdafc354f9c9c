// The page of runs with a hundred runs.
//
//     node many.mjs NODE_MODULES CHROMIUM URL FOLDER_FOR_SCREENSHOTS_OR_NOTHING SERVER_PID [timed]

import { browser } from "./browser.mjs";
import { many } from "./runs.mjs";

const [pid, timed] = process.argv.slice(6);
await many(pid, Boolean(timed));
await browser.close();
