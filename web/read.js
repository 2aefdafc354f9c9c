customElements.define("kinglet-read", class extends HTMLElement {});
