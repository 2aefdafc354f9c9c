// Chat: a conversation with a model that learned from conversations. It is kept on this page alone, until the tab is closed or
// reloaded.

import { field, h, readable, say } from "./dom.js";
import "./knobs.js";
import { scale } from "./tokens.js";
import { A_FRAME, Frames, Writing, WritingPage, copyButton, ending, errorBox, keysHint, loadModels, mended, notesBox, runButton } from "./text.js";

/**
 * The conversation, which stays when another page is looked at. A message has its `role` and `content`; an answer its
 * `writing` too.
 */
let messages = [];
let system = "";

class Chat extends WritingPage {
  #model = document.createElement("kinglet-model");
  #knobs = document.createElement("kinglet-knobs");
  #system = h("textarea", { rows: 2, spellcheck: "false" });
  #list = h("ol", { className: "talk", "aria-label": "Conversation" });
  #draft = h("textarea", { rows: 2, spellcheck: "false", placeholder: "Type a message" });
  #run = runButton("Send", () => this.#send(), () => this.stop());
  #anew = h("button", { type: "button", className: "quiet push", onclick: () => this.#clear() }, "New conversation");
  #trouble = h("div", { className: "stack" });
  #error = h("div", { className: "stack" });
  #composer = h("div", { className: "stack composer" });
  #empty = h("div", { className: "empty" }, "Say something. Each answer can be looked at token by token.");
  frames = new Frames(() => this.#draw());
  #views = new Map();
  #running = null;
  #editing = null;
  onKey = (event) => {
    if (event.key === "Escape" && this.#running) this.stop();
  };

  constructor() {
    super();
    this.#model.chatOnly = true;
    for (const element of [this.#model, this.#knobs]) element.addEventListener("change", () => this.#changed());
    this.#system.addEventListener("input", () => (system = this.#system.value));
    this.#draft.addEventListener("keydown", (event) => this.#onEnter(event, this.#run.press));
  }

  connectedCallback() {
    const hint = keysHint(["Enter"], "sends");
    const actions = h("div", { className: "row" }, this.#run, hint, this.#anew);
    this.#composer.append(this.#error, field("Message", this.#draft), actions);
    const message = field("System message", this.#system, "It may be empty. Only models that learned with one know what it is.");
    const left = [this.#model, this.#trouble, this.#empty, this.#list, this.#composer];
    this.lay(h("div", { className: "page beside" }), left, [message, this.#knobs], "Settings");
    this.#open();
  }

  async #open() {
    this.#model.wanted = this.query.get("model");
    this.#knobs.read(this.query);
    if (this.query.has("system")) system = this.query.get("system");
    this.#system.value = system;
    this.#render();
    const isThere = await this.#run.waitFor(loadModels([this.#model], this.#trouble, noChats()));
    for (const element of [this.#model, this.#composer]) element.hidden = !isThere;
    this.#empty.hidden ||= !isThere;
    if (isThere) this.#draft.focus({ preventScroll: true });
  }

  #send() {
    const content = this.#draft.value;
    if (!content.trim()) return;
    this.#draft.value = "";
    this.#answer([...messages, { role: "user", content }], () => {
      this.#draft.value ||= content;
    });
  }

  /**
   * Goes on from these messages. If that is refused, all is as it was before; `undo` gives back what was typed, and says where
   * the reason belongs, if that is not at the end.
   */
  async #answer(asked, undo = () => null, isNew = undefined) {
    this.stop();
    const before = messages;
    const writing = new Writing();
    messages = [...asked, { role: "assistant", writing, model: this.#model.model.id }];
    this.#running = writing;
    this.#editing = null;
    this.#error.replaceChildren();
    this.#render();
    this.#list.lastElementChild.scrollIntoView({ block: "nearest" });
    say("The model answers");
    const told = asked.map((message) => ({ role: message.role, content: contentOf(message) }));
    if (system.trim()) told.unshift({ role: "system", content: system });
    for (const message of told) {
      const [content, notes] = mended(message.content);
      message.content = content;
      writing.notes.push(...notes);
    }
    const body = { model: this.#model.model.id, messages: told, seed: this.#knobs.nextSeed(isNew), ...this.#knobs.body() };
    await writing.run("/v1/chat/completions", body, () => this.frames.ask());
    const isLast = this.#running === writing;
    if (isLast) this.#running = null;
    if (writing.error && !writing.texts[0].text && messages.at(-1)?.writing === writing) {
      messages = before;
      this.#render();
      const place = undo() ?? this.#error;
      place.replaceChildren(errorBox(writing.error));
    } else if (isLast && this.isConnected) say(writing.texts[0].text);
    this.#run.show(!!this.#running);
  }

  stop() {
    this.#running?.stop();
    this.#running = null;
  }

  #clear() {
    this.stop();
    messages = [];
    this.#error.replaceChildren();
    this.#render();
    this.#draft.focus();
  }

  /** Writes an answer once more, with another seed; what came after it is gone. */
  #retry(message) {
    this.#answer(messages.slice(0, messages.indexOf(message)), undefined, true);
    this.#draft.focus({ preventScroll: true });
  }

  #edit(message) {
    this.#editing = message;
    this.#render();
    const area = this.#list.querySelector("textarea");
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  #edited(message, content) {
    this.#editing = null;
    const before = messages.slice(0, messages.indexOf(message));
    if (content.trim()) this.#answer([...before, { role: "user", content }], () => this.#giveBack(message, content));
    this.#draft.focus({ preventScroll: true });
  }

  /** What was edited is not lost when it is refused. */
  #giveBack(message, content) {
    this.#edit(message);
    this.#list.querySelector("textarea").value = content;
    return this.#list.querySelector(".refused");
  }

  #onEnter(event, send) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  }

  /** Draws the messages that are new, and takes away those that are gone. */
  #render() {
    for (const [message, view] of this.#views) {
      if (messages.includes(message) && view.isEditing === (this.#editing === message)) continue;
      view.item.remove();
      this.#views.delete(message);
    }
    messages.forEach((message, i) => {
      if (!this.#views.has(message)) this.#views.set(message, message.writing ? this.#answerView(message) : this.#questionView(message));
      const { item } = this.#views.get(message);
      if (this.#list.children[i] !== item) this.#list.insertBefore(item, this.#list.children[i] ?? null);
    });
    this.#list.hidden = !messages.length;
    this.#empty.hidden = !!messages.length;
    this.#anew.hidden = !messages.length;
    this.#draw();
  }

  #questionView(message) {
    if (this.#editing === message) return { item: this.#editor(message), isEditing: true };
    const edit = h("button", { type: "button", className: "quiet push", onclick: () => this.#edit(message) }, "Edit");
    const head = h("div", { className: "row head" }, h("h2", null, "You"), edit);
    return { item: h("li", { className: "you" }, head, h("p", { className: "said", dir: "auto" }, readable(message.content))), isEditing: false };
  }

  #editor(message) {
    const area = h("textarea", { rows: 3, spellcheck: "false", value: message.content });
    const send = () => this.#edited(message, area.value);
    const cancel = () => {
      this.#editing = null;
      this.#render();
      this.#views.get(message).item.querySelector("button").focus();
    };
    area.addEventListener("keydown", (event) => {
      this.#onEnter(event, send);
      if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      }
    });
    const actions = h("div", { className: "row" },
      h("button", { type: "button", className: "main", onclick: send }, "Send again"),
      h("button", { type: "button", onclick: cancel }, "Cancel"),
      h("span", { className: "faint small" }, "What comes after this message is written anew."));
    return h("li", { className: "you stack" }, field("Your message", area), actions, h("div", { className: "stack refused" }));
  }

  #answerView(message) {
    const { writing } = message;
    const said = h("p", { className: "said", dir: "auto" });
    const looked = h("div", { className: "stack", hidden: true });
    const look = h("button", { type: "button", className: "quiet push", "aria-pressed": "false", onclick: () => this.#look(message) }, "Tokens");
    const retry = h("button", { type: "button", className: "quiet", onclick: () => this.#retry(message) }, "Retry");
    const copy = copyButton("Copy", () => writing.texts[0].text);
    const state = h("div", { className: "notes" });
    const head = h("div", { className: "row head" }, h("h2", null, message.model), look, copy, retry);
    return { item: h("li", null, head, said, looked, state), isEditing: false, said, looked, look, retry, state, length: 0, tokens: null };
  }

  /** Shows an answer as its tokens, or as text again. */
  #look(message) {
    const view = this.#views.get(message);
    const isOn = view.look.getAttribute("aria-pressed") !== "true";
    view.look.setAttribute("aria-pressed", String(isOn));
    if (!view.tokens) {
      view.tokens = document.createElement("kinglet-tokens");
      view.tokens.label = "The answer's tokens";
      view.looked.append(view.tokens, scale());
    }
    view.said.hidden = isOn;
    view.looked.hidden = !isOn;
    this.#drawAnswer(message);
  }

  #draw() {
    messages.filter(({ writing }) => writing).forEach((message) => this.#drawAnswer(message));
    this.#run.show(!!this.#running);
  }

  /** Puts on the page what has come of an answer. */
  #drawAnswer({ writing }) {
    const view = [...this.#views].find(([message]) => message.writing === writing)?.[1];
    const [text] = writing.texts;
    if (!view) return;
    if (text.text.length > view.length) {
      view.said.append(readable(text.text.slice(view.length)));
      view.length = text.text.length;
    }
    if (view.tokens && !view.looked.hidden) {
      const { length } = view.tokens.tokens;
      if (length > text.tokens.length) view.tokens.reset([], text.tokens);
      else if (length < text.tokens.length) view.tokens.extend(text.tokens.slice(length, length + A_FRAME));
      if (view.tokens.tokens.length < text.tokens.length) this.frames.ask();
    }
    view.retry.disabled = writing.isRunning;
    if (!text.reason) return;
    const about = [text.reason !== "stop" && ending(text), writing.pace].filter(Boolean).join(" · ");
    view.state.replaceChildren(...[h("p", null, about), writing.error && errorBox(writing.error), notesBox(writing.notes)].filter(Boolean));
    if (!text.text && !view.said.firstChild) view.said.append(h("span", { className: "faint" }, "(no text)"));
  }

  #changed() {
    this.saveSoon(() => this.#address());
  }

  #address() {
    const params = new URLSearchParams();
    if (this.#model.model) params.set("model", this.#model.model.id);
    this.#knobs.write(params);
    params.delete("seed");
    return new URL(`#chat?${params}`, location.href).href;
  }
}

/** What somebody said. */
function contentOf({ content, writing }) {
  return writing ? writing.texts[0].text : content;
}

function noChats() {
  const train = h("p", null, "Train one on a file of them: ", h("code", null, "kinglet train chats.jsonl"), ".");
  const others = h("p", null, "Other models write on from a text: ", h("a", { href: "#write" }, "Write"), ".");
  return [h("p", null, "No model here learned from conversations."), train, others];
}

customElements.define("kinglet-chat", Chat);
