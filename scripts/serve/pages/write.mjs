// Write, Compare, Chat: the main thing that a person does there, by mouse and by keyboard.

import { assert, check, open, tell, url } from "./browser.mjs";

const DONE = /reached its length|ended by itself|met a stop text/;

/** Waits until so many texts have ended. */
async function ended(page, texts = 1) {
  await page.waitForFunction(
    ([pattern, texts]) => [...document.querySelectorAll(".foot")].filter((foot) => new RegExp(pattern).test(foot.textContent)).length >= texts,
    [DONE.source, texts],
  );
}

const tokens = (page, name) => page.getByRole("listbox", { name, exact: true });
const written = (page, name) => tokens(page, name).evaluate((list) => list.parentElement.tokens.map(({ id, logprob, text }) => ({ id, logprob, text })));

/** What `POST /api/score` says of a text that was written: the whole of it, with the prompt before it. */
async function scores(page, name, model) {
  const ids = await tokens(page, name).evaluate((list) => {
    const element = list.parentElement;
    return [...element.given, ...element.tokens].map(({ id }) => id);
  });
  const body = JSON.stringify({ model, ids, top: 0 });
  const answer = await fetch(`${url}/api/score`, { method: "POST", headers: { "Content-Type": "application/json" }, body });
  assert(answer.ok, await answer.clone().text());
  return (await answer.json()).tokens;
}

export async function write() {
  const { page, wrongs, close } = await open("#write?model=text&max_tokens=40");
  await check("Write, by mouse: a text with its probabilities, what else it might have said, and from there on", async () => {
    await page.getByRole("textbox", { name: "Prompt" }).fill("Kari ");
    await page.getByRole("button", { name: "Write", exact: true }).click();
    await ended(page);
    const before = await written(page, "Text");
    assert(before.length === 40, `${before.length} tokens`);
    await page.locator(".tokens .token").nth(10).click();
    const others = page.getByRole("list", { name: "Go on with another token" }).getByRole("button");
    assert((await others.count()) === 8, `${await others.count()} alternatives`);
    const other = page.getByRole("list", { name: "Go on with another token" }).locator("button:not([aria-current])").first();
    await other.click();
    await ended(page);
    const after = await written(page, "Text");
    assert(before.slice(0, 10).every(({ id }, i) => id === after[i].id) && before[10].id !== after[10].id, "the text before it is kept");
    await page.getByRole("button", { name: "The text before" }).click();
    assert(JSON.stringify(await written(page, "Text")) === JSON.stringify(before), "the text before is there again");
  });
  await check("Write, by keyboard: writing, walking the tokens, choosing another one, going back", async () => {
    await page.getByRole("textbox", { name: "Prompt" }).focus();
    await page.keyboard.press("Control+Enter");
    await ended(page);
    const before = await written(page, "Text");
    await tokens(page, "Text").focus();
    for (const key of ["Home", "ArrowRight", "ArrowRight", "ArrowDown"]) await page.keyboard.press(key);
    // The list has the token that was drawn too, at its place.
    const isCurrent = () => document.activeElement.ariaCurrent === "true";
    do await page.keyboard.press("ArrowDown");
    while (await page.evaluate(isCurrent));
    await page.keyboard.press("Enter");
    await ended(page);
    const after = await written(page, "Text");
    assert(after[1].id === before[1].id && after[2].id !== before[2].id, "the third token is another one");
    await page.getByRole("textbox", { name: "Prompt" }).blur();
    await page.keyboard.press("Alt+ArrowLeft");
    assert(JSON.stringify(await written(page, "Text")) === JSON.stringify(before), "the text before is there again");
  });
  await check("Write: the probabilities are those of `POST /api/score`, and so of `kinglet score`, to 1e-6", async () => {
    const found = await written(page, "Text");
    const all = await scores(page, "Text", "text");
    const wanted = all.slice(all.length - found.length);
    const worst = Math.max(...found.map(({ logprob }, i) => Math.abs(Math.exp(logprob) - Math.exp(wanted[i].logprob))));
    assert(found.length > 0 && worst <= 1e-6, `${found.length} tokens, the largest difference is ${worst}`);
  });
  await check("Write: the address holds the prompt and the seed, and writes the same text elsewhere", async () => {
    const before = page.url();
    await page.getByRole("button", { name: "Write", exact: true }).click();
    // The new seed.
    await page.waitForFunction((before) => location.href !== before, before);
    await page.getByRole("button", { name: "Write", exact: true }).waitFor();
    await ended(page);
    const link = new URL(page.url());
    const other = await open(link.hash);
    await other.page.getByRole("button", { name: "Write", exact: true }).click();
    await ended(other.page);
    assert(JSON.stringify(await written(page, "Text")) === JSON.stringify(await written(other.page, "Text")), "not the same text");
    await other.close();
  });
  await check("Write: several texts at once, and a stop by Escape", async () => {
    await page.getByRole("spinbutton", { name: "Texts at once" }).fill("3");
    await page.getByRole("button", { name: "Write", exact: true }).click();
    await ended(page, 3);
    assert((await written(page, "Text 3")).length === 40, "the third text");
    await page.keyboard.press("Escape");
  });
  tell("Write: nothing was asked elsewhere, nothing failed, no policy was broken", wrongs.length === 0, wrongs.join("\n"));
  await close();
}

export async function compare() {
  const { page, wrongs, close } = await open("#compare?max_tokens=30");
  await check("Compare, by mouse: two models, one prompt and seed, side by side, and where they part", async () => {
    await page.getByRole("region", { name: "Side A" }).getByRole("combobox", { name: "Model" }).selectOption("text");
    await page.getByRole("region", { name: "Side B" }).getByRole("combobox", { name: "Model" }).selectOption("pieces");
    await page.getByRole("textbox", { name: "Prompt of both" }).fill("Kari ");
    await page.getByRole("button", { name: "Write both" }).click();
    await ended(page, 2);
    assert((await written(page, "Text A")).length && (await written(page, "Text B")).length, "both have tokens");
    assert((await page.locator(".parting").first().textContent()).trim().length > 0, "where they part is said");
  });
  await check("Compare, by keyboard: the same model with the same seed writes the same text", async () => {
    await page.getByRole("region", { name: "Side B" }).getByRole("combobox", { name: "Model" }).selectOption("text");
    await page.getByRole("textbox", { name: "Prompt of both" }).focus();
    await page.keyboard.press("Control+Enter");
    await page.waitForFunction(() => {
      const [a, b] = [...document.querySelectorAll("kinglet-tokens")].map((element) => element.tokens.map(({ id }) => id).join());
      return a && a === b && a.split(",").length === 30;
    });
  });
  tell("Compare: nothing was asked elsewhere, nothing failed, no policy was broken", wrongs.length === 0, wrongs.join("\n"));
  await close();
}

export async function chat() {
  const { page, wrongs, close } = await open("#chat?model=chat");
  // A button that is disabled while an answer comes does not take the focus.
  const retry = page.getByRole("button", { name: "Retry", disabled: false }).last();
  await check("Chat, by keyboard: a message, its answer, the same again with another seed", async () => {
    await page.getByRole("textbox", { name: "Message", exact: true }).fill("say 7");
    await page.keyboard.press("Enter");
    await retry.waitFor();
    const seed = () => page.getByRole("spinbutton", { name: "Seed" }).inputValue();
    const before = await seed();
    await retry.focus();
    await page.keyboard.press("Enter");
    await page.getByRole("button", { name: "Send", exact: true }).waitFor();
    assert((await seed()) !== before, "it is another seed");
  });
  await check("Chat, by mouse: an earlier message is edited, and the conversation goes on from there", async () => {
    await page.getByRole("button", { name: "Edit" }).first().click();
    await page.getByRole("textbox", { name: "Your message" }).fill("say 9");
    await page.getByRole("button", { name: "Send again" }).click();
    await retry.waitFor();
    // An answer may contain anything: this model learned to say numbers.
    const said = await page.locator("kinglet-chat li.you .said").allTextContents();
    assert(said.join() === "say 9", `what was said is ${said.join()}`);
  });
  tell("Chat: nothing was asked elsewhere, nothing failed, no policy was broken", wrongs.length === 0, wrongs.join("\n"));
  await close();
}
