customElements.define("kinglet-runs", class extends HTMLElement {});
