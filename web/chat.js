customElements.define("kinglet-chat", class extends HTMLElement {});
