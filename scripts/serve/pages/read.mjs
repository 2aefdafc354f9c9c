// Read and Look inside: the main thing that a person does there, by mouse and by keyboard.

import { assert, check, hold, open, tell, url } from "./browser.mjs";

export async function read() {
  const { page, wrongs, close } = await open("#read?model=text");
  const text = "Kari mote bari";
  await check("Read, by keyboard: a text as a heat map, with the figures of the server", async () => {
    await page.getByRole("textbox", { name: "Text", exact: true }).fill(text);
    await page.keyboard.press("Control+Enter");
    await page.getByRole("heading", { name: "The whole text" }).waitFor();
    await page.waitForFunction((n) => document.querySelector("kinglet-tokens")?.tokens.length === n, text.length);
    const body = JSON.stringify({ model: "text", text, top: 0 });
    const answer = await (await fetch(`${url}/api/score`, { method: "POST", headers: { "Content-Type": "application/json" }, body })).json();
    const found = await page.locator("kinglet-tokens").evaluate((element) => element.tokens.map(({ logprob }) => logprob));
    const worst = Math.max(...answer.tokens.map(({ logprob }, i) => Math.abs(Math.exp(logprob ?? 0) - Math.exp(found[i] ?? 0))));
    assert(worst <= 1e-6, `the largest difference of a probability is ${worst}`);
    assert((await page.locator("kinglet-read").textContent()).includes(answer.summary.bits_per_char.toFixed(2)), "bits per character");
    await page.getByRole("listbox", { name: "The text, token by token" }).focus();
    await page.keyboard.press("End");
    await page.locator(".instead ol").waitFor();
    assert((await page.locator(".instead li").count()) === 8, "what the model expected");
    await page.keyboard.press("Escape");
  });
  await check("Read, by mouse: the worst places lead to the token", async () => {
    await page.getByRole("list", { name: "The most surprising tokens" }).getByRole("button").first().click();
    await page.locator(".instead").waitFor();
    await page.keyboard.press("Escape");
  });
  await check("Read, by mouse: what of the text stands in the training text", async () => {
    await page.getByRole("button", { name: "Write one with the model" }).click();
    await page.waitForFunction((text) => document.querySelector("textarea").value !== text, text);
    await page.getByRole("button", { name: "From the training text" }).click();
    await page.getByRole("heading", { name: "Longest passages" }).waitFor();
  });
  await check("Read, by mouse: the view is changed, and back, while the text is still being read", async () => {
    await page.getByRole("button", { name: "Surprise" }).click();
    const scores = "**/api/score";
    const goOn = await hold(page, scores);
    const asked = page.waitForRequest(scores);
    await page.getByRole("textbox", { name: "Text", exact: true }).fill(text);
    await page.keyboard.press("Control+Enter");
    await asked;
    await page.getByRole("button", { name: "From the training text" }).click();
    await page.waitForFunction((text) => document.querySelector(".marked")?.textContent === text, text);
    goOn();
    await page.unroute(scores);
    await page.getByRole("button", { name: "Surprise" }).click();
    await page.waitForFunction((n) => document.querySelector("kinglet-tokens")?.tokens.length === n, text.length);
    await page.getByRole("heading", { name: "The whole text" }).waitFor();
  });
  tell("Read: nothing was asked elsewhere, nothing failed, no policy was broken", wrongs.length === 0, wrongs.join("\n"));
  await close();
}

export async function look() {
  const { page, wrongs, close } = await open("#attention?model=text");
  await check("Look inside, by keyboard: the heads of a layer, where a token looks, the next token layer by layer", async () => {
    await page.getByRole("textbox", { name: "Text", exact: true }).fill("Kari mote bari");
    await page.keyboard.press("Control+Enter");
    await page.getByRole("img", { name: /Attention of head 1/ }).waitFor();
    await page.getByRole("region", { name: "The likeliest next token, layer by layer" }).waitFor();
    await page.getByRole("listbox", { name: "The text, token by token" }).focus();
    for (const key of ["Home", "ArrowRight", "2"]) await page.keyboard.press(key);
    await page.getByRole("img", { name: /Attention of head 2/ }).waitFor();
    assert((await page.getByRole("button", { name: "Head 2" }).getAttribute("aria-pressed")) === "true", "the second head is chosen");
  });
  await check("Look inside, by mouse: another layer, another head, a cell's weight", async () => {
    await page.getByRole("combobox", { name: "Layer" }).selectOption({ index: 1 });
    await page.getByRole("button", { name: "Head 1" }).click();
    const large = page.getByRole("img", { name: /Attention of head 1/ });
    await large.hover({ position: { x: 60, y: 200 } });
    await page.waitForFunction(() => /%/.test(document.querySelector(".readout")?.textContent ?? ""));
  });
  tell("Look inside: nothing was asked elsewhere, nothing failed, no policy was broken", wrongs.length === 0, wrongs.join("\n"));
  await close();
}
