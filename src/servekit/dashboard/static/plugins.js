// The plugins in use and what each gave, those that are not in use, and where replicas run.

import { h, show } from "./dom.js";

export class PluginsView {
  constructor() {
    this.said = "";
    this.plugins = h("ul", { class: "lines" });
    this.problems = h("ul", { class: "problems" });
    this.fine = h("p", { class: "fine" }, "All that are installed can be used.");
    this.runtimes = h("ul", { class: "lines" });
    this.where = h("section", { class: "card" }, h("h2", {}, "Where replicas run"), this.runtimes);
    this.root = h("div", { class: "columns" },
      h("section", { class: "card" }, h("h2", {}, "Plugins in use"), this.plugins),
      h("section", { class: "card" }, h("h2", {}, "Plugins that are not in use"), this.fine, this.problems),
      this.where);
  }

  update({ status }) {
    const said = JSON.stringify([status.plugins, status.plugin_problems, status.runtimes]);
    if (said === this.said) return;
    this.said = said;
    const item = (text) => h("li", {}, text);
    this.plugins.replaceChildren(...status.plugins.map(item));
    this.problems.replaceChildren(...status.plugin_problems.map((text) => h("li", { class: "warn" },
      h("span", { class: "level" }, "Mind"), h("span", {}, text))));
    this.runtimes.replaceChildren(...status.runtimes.map(item));
    show(this.where, status.runtimes.length > 0);
    show(this.fine, status.plugin_problems.length === 0);
  }
}
