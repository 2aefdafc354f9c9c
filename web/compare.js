customElements.define("kinglet-compare", class extends HTMLElement {});
