// What a new split would do, and whether it is to be done.

import { h, setAttribute, setText, show } from "./dom.js";
import { percent, rate, split } from "./format.js";

export class Effect {
  constructor({ apply, discard }) {
    this.says = h("p", { role: "status" });
    this.rows = h("tbody");
    this.error = h("p", { class: "error", role: "alert" });
    this.applies = h("button", { class: "primary", type: "button", on: { click: () => apply() } }, "Apply");
    this.discards = h("button", { type: "button", on: { click: () => discard() } }, "Discard");
    this.root = h("div", { class: "effect", hidden: true },
      this.says,
      h("table", { class: "figures" },
        h("thead", {}, h("tr", {},
          h("th", { scope: "col" }, "Version"),
          h("th", { scope: "col", class: "number" }, "Now"),
          h("th", { scope: "col", class: "number" }, "Then"),
          h("th", { scope: "col", class: "number" }, "Requests/s now"),
          h("th", { scope: "col", class: "number" }, "Then, about"))),
        this.rows),
      this.error,
      h("div", { class: "buttons" }, this.applies, this.discards));
  }

  update(before, after, perSecond) {
    show(this.root, after !== null);
    if (after === null) return;
    setText(this.says, `From ${split(before)} to ${split(Object.fromEntries(after))}.`);
    this.rows.replaceChildren(...after.map(([name, share]) => {
      const old = Object.hasOwn(before, name) ? before[name] : 0;
      const cells = [percent(old), percent(share), rate(perSecond * old), rate(perSecond * share)];
      return h("tr", {}, h("th", { scope: "row" }, name), ...cells.map((text) => h("td", { class: "number" }, text)));
    }));
  }

  busy(is) {
    setAttribute(this.applies, "disabled", is);
    setText(this.applies, is ? "Applying…" : "Apply");
  }

  failed(text) {
    setText(this.error, text);
    show(this.error, Boolean(text));
  }
}
