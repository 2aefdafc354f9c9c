customElements.define("kinglet-attention", class extends HTMLElement {});
