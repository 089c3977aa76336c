// What is served, as a configuration file.

import { h, setText } from "./dom.js";

export class ConfigurationView {
  constructor({ session }) {
    this.session = session;
    this.asked = null;
    this.text = h("pre", { class: "toml", tabindex: "0", "aria-label": "Configuration file" }, "…");
    this.copied = h("span", { class: "soft", role: "status" });
    const copy = h("button", { type: "button", class: "quiet", on: { click: () => this.copy() } }, "Copy");
    this.root = h("section", { class: "card" },
      h("header", {}, h("h2", {}, "Configuration"), copy, this.copied),
      h("p", { class: "soft" }, "What servekit export writes: deployed again, it changes nothing."), this.text);
  }

  update({ status }) {
    const { endpoints, backends } = status;
    const configs = Object.entries(backends).map(([name, { target, code_digest, config }]) => [name, target, code_digest, config]);
    const shown = JSON.stringify([endpoints, configs]);
    if (shown !== this.asked) this.ask(shown);
  }

  async ask(shown) {
    this.asked = shown;
    if (!this.session.mayChange) {
      setText(this.text, "It may hold secrets, and is not for sessions of the read-only token.");
      return;
    }
    try {
      const told = await this.session.ask("GET", "/configuration");
      setText(this.text, told.toml);
    } catch (error) {
      this.asked = null;
      setText(this.text, error.message);
    }
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.text.textContent);
      setText(this.copied, "Copied.");
    } catch (error) {
      setText(this.copied, `It was not copied: ${error.message}`);
    }
  }
}
