// All checks of the pages; each line of the output is one of them.
//
//     node all.mjs NODE_MODULES CHROMIUM URL [FOLDER_FOR_SCREENSHOTS]

import { browser } from "./browser.mjs";
import { early } from "./early.mjs";
import { looks } from "./looks.mjs";
import { look, read } from "./read.mjs";
import { runs } from "./runs.mjs";
import { chat, compare, write } from "./write.mjs";

for (const part of [write, compare, chat, read, look, early, runs, looks]) await part();
await browser.close();
