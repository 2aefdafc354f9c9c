customElements.define("kinglet-write", class extends HTMLElement {});
