// A person may be quicker than the server: what is asked before the models are there is done once they are.

import { check, hold, open } from "./browser.mjs";

/** Each page: where it is, what is typed first, the keys that begin, and what is on the page when it was done. */
const PAGES = [
  ["Write", "#write?model=text&max_tokens=20", "Prompt", "Control+Enter", () => document.querySelector("kinglet-tokens")?.tokens.length === 20],
  ["Compare", "#compare?max_tokens=20", "Prompt of both", "Control+Enter", () => {
    const written = [...document.querySelectorAll("kinglet-tokens")].filter(({ tokens }) => tokens.length > 0);
    const models = [...document.querySelectorAll("kinglet-model")].map(({ model }) => model?.id);
    return written.length === 2 && models[0] !== models[1];
  }],
  ["Chat", "#chat?model=chat", "Message", "Enter", () => document.querySelectorAll("kinglet-chat li").length === 2],
  ["Read", "#read?model=text", "Text", "Control+Enter", () => document.querySelector("kinglet-tokens")?.tokens.length === 4],
  ["Look inside", "#attention?model=text", "Text", "Control+Enter", () => document.querySelector("kinglet-attention canvas[aria-label]")],
];

export async function early() {
  for (const [name, hash, box, key, isDone] of PAGES) {
    await check(`${name}: a key that comes before the models are there counts once they are`, async () => {
      let goOn;
      const before = async (page) => (goOn = await hold(page, "**/v1/models"));
      const { page, close } = await open(hash, { before });
      await page.getByRole("textbox", { name: box, exact: true }).fill("Kari");
      await page.keyboard.press(key);
      goOn();
      await page.waitForFunction(isDone);
      await close();
    });
  }
}
