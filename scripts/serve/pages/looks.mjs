// Every page at three widths, light and dark: nothing is wider than the window, axe finds nothing.

import { join } from "node:path";
import { assert, check, fits, folder, open, violations } from "./browser.mjs";

/** What is done on each page, so that it shows what it is for. */
const PAGES = {
  write: ["#write?model=text&max_tokens=120&prompt=Kari", async (page) => {
    await page.getByRole("button", { name: "Write", exact: true }).click();
    await page.waitForFunction(() => /reached its length|ended by itself/.test(document.querySelector(".foot")?.textContent));
    await page.locator(".tokens .token").nth(20).click();
  }],
  compare: ["#compare?max_tokens=60&prompt=Kari", async (page) => {
    await page.getByRole("button", { name: "Write both" }).click();
    await page.waitForFunction(() => document.querySelectorAll("kinglet-tokens").length === 2 && document.querySelectorAll(".token").length > 20);
  }],
  chat: ["#chat?model=chat", async (page) => {
    await page.getByRole("textbox", { name: "Message", exact: true }).fill("say 7");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Retry" }).last().waitFor();
  }],
  read: ["#read?model=text", async (page) => {
    await page.getByRole("textbox", { name: "Text", exact: true }).fill("Kari mote bari\nmote Kari bari\n");
    await page.keyboard.press("Control+Enter");
    await page.getByRole("heading", { name: "The whole text" }).waitFor();
  }],
  attention: ["#attention?model=text", async (page) => {
    await page.getByRole("textbox", { name: "Text", exact: true }).fill("Kari mote bari");
    await page.keyboard.press("Control+Enter");
    await page.getByRole("img", { name: /Attention of head 1/ }).waitFor();
  }],
  runs: ["#runs", async (page) => {
    await page.locator("kinglet-runs table tbody tr").first().waitFor();
    await page.getByRole("heading", { name: "Learning rate" }).waitFor();
  }],
};

export async function looks() {
  for (const [name, [hash, act]] of Object.entries(PAGES)) {
    for (const width of [320, 800, 1600]) {
      for (const colorScheme of ["light", "dark"]) {
        await check(`${name}, ${width} px, ${colorScheme}: fits, axe finds nothing, nothing is asked elsewhere`, async () => {
          const { page, wrongs, close } = await open(hash, { width, height: 900, colorScheme });
          try {
            await act(page);
            if (folder) await page.screenshot({ path: join(folder, `${name}-${width}-${colorScheme}.png`) });
            assert(await fits(page), "something is wider than the window");
            const found = await violations(page);
            assert(found.length === 0, found.join("\n"));
            assert(wrongs.length === 0, wrongs.join("\n"));
          } finally {
            await close();
          }
        });
      }
    }
  }
}
