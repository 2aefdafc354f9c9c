// The pictures of the page in the README.
//
//     node pictures.mjs NODE_MODULES CHROMIUM URL docs/img     # then: 64 colours, by any program that reduces a palette
//
// The server has the runs shakespeare-small and shakespeare-large (presets kinglet-0.2m and kinglet-2.7m on Tiny Shakespeare), and
// chat (of conversations).

import { join } from "node:path";
import { browser, folder, open } from "./browser.mjs";

const TEXT = "ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n\nMy neighbour bought a yellow bicycle on Monday.\n";

const PICTURES = {
  write: ["#write?model=shakespeare-large&max_tokens=220&seed=3&prompt=ROMEO%3A%0A", async (page) => {
    await page.getByRole("button", { name: "Write", exact: true }).click();
    await page.waitForFunction(() => /reached its length/.test(document.querySelector(".foot")?.textContent));
    await page.locator(".tokens .token").nth(8).click();
  }],
  compare: ["#compare?max_tokens=200&seed=3&prompt=ROMEO%3A%0A", async (page) => {
    await page.getByRole("region", { name: "Side A" }).getByRole("combobox", { name: "Model" }).selectOption("shakespeare-small");
    await page.getByRole("region", { name: "Side B" }).getByRole("combobox", { name: "Model" }).selectOption("shakespeare-large");
    await page.getByRole("button", { name: "Write both" }).click();
    await page.waitForFunction(() => [...document.querySelectorAll(".foot")].filter((foot) => /reached/.test(foot.textContent)).length === 2);
  }],
  chat: ["#chat?model=chat", async (page) => {
    await page.getByRole("textbox", { name: "Message", exact: true }).fill("Tell me of the blue bird.");
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Retry" }).last().waitFor();
  }],
  read: ["#read?model=shakespeare-large", async (page) => {
    await page.getByRole("textbox", { name: "Text", exact: true }).fill(TEXT);
    await page.keyboard.press("Control+Enter");
    await page.getByRole("heading", { name: "The whole text" }).waitFor();
  }],
  attention: ["#attention?model=shakespeare-large", async (page) => {
    await page.getByRole("textbox", { name: "Text", exact: true }).fill("what light through yonder window");
    await page.keyboard.press("Control+Enter");
    await page.getByRole("img", { name: /Attention of head 1/ }).waitFor();
    await page.getByRole("button", { name: "Head 3" }).click();
  }],
  runs: ["#runs", async (page) => {
    await page.locator("kinglet-runs canvas").first().waitFor();
    await page.waitForLoadState("networkidle");
  }],
};

for (const [name, [hash, act]] of Object.entries(PICTURES)) {
  for (const colorScheme of ["light", "dark"]) {
    const { page, close } = await open(hash, { width: 1120, height: name === "runs" ? 960 : 760, colorScheme });
    await act(page);
    await page.waitForTimeout(500);
    await page.screenshot({ path: join(folder, `page-${name}-${colorScheme}.png`) });
    await close();
  }
}
await browser.close();
