// What each endpoint's traffic has been, by whom and why, and the way back.

import { h, Keyed, setText, show } from "./dom.js";
import { clock, split } from "./format.js";

class Entry {
  constructor(endpoint, context) {
    this.endpoint = endpoint;
    this.context = context;
    this.number = h("th", { scope: "row" });
    this.cells = ["", "", "", ""].map(() => h("td", {}));
    this.back = h("button", { type: "button", class: "quiet", on: { click: () => this.ask() } }, "Return to this…");
    this.now = h("span", { class: "badge good" }, "serves now");
    this.root = h("tr", {}, this.number, ...this.cells, h("td", {}, this.back, this.now));
  }

  update({ entry, current }) {
    this.entry = entry;
    this.current = current;
    setText(this.number, entry.number);
    const revisions = Object.entries(entry.revisions).map(([name, revision]) => `${name}@${revision}`).join(", ");
    [clock(entry.at), `${split(entry.traffic)}`, revisions, [entry.why, entry.who && `by ${entry.who}`].filter(Boolean).join(", ")]
      .forEach((text, at) => setText(this.cells[at], text));
    const isNow = entry.number === current.number;
    show(this.now, isNow);
    show(this.back, !isNow && this.context.session.mayChange);
    this.back.setAttribute("aria-label", `Return ${this.endpoint} to entry ${entry.number}…`);
  }

  ask() {
    const { session, confirmed } = this.context;
    const { entry, current, endpoint } = this;
    confirmed({
      title: `Return ${endpoint} to entry ${entry.number}?`,
      says: [
        `From ${split(current.traffic)} to ${split(entry.traffic)}, as it was at ${clock(entry.at)}.`,
        "Versions that are gone are started again, with the code and the config that they had; traffic moves once they are ready.",
      ],
      verb: "Return",
      act: () => session.call("rollback", { name: endpoint, number: entry.number }),
    });
  }
}

class EndpointHistory {
  constructor(name, context) {
    this.name = name;
    this.context = context;
    this.asked = null;
    const rows = h("tbody");
    this.entries = new Keyed(rows, () => new Entry(name, context));
    this.none = h("p", { class: "soft" }, "It has had no traffic.");
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    const heads = ["When", "Traffic", "Revisions", "Why"].map((title) => h("th", { scope: "col" }, title));
    this.table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `History of ${name}` },
      h("table", { class: "entries" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Entry"), ...heads, h("td", {}))), rows));
    this.root = h("article", { class: "card", "aria-label": `Endpoint ${name}` },
      h("header", {}, h("h2", {}, name)), this.error, this.table, this.none);
  }

  /** `shown`: what may have changed the history. */
  update([, shown]) {
    if (shown !== this.asked) this.ask(shown);
  }

  async ask(shown) {
    this.asked = shown;
    try {
      const entries = await this.context.session.call("history", { name: this.name });
      show(this.error, false);
      show(this.table, entries.length > 0);
      show(this.none, entries.length === 0);
      this.entries.update(entries.map((entry) => ({ entry, current: entries[0] })), ({ entry }) => entry.number);
    } catch (error) {
      this.asked = null;
      setText(this.error, error.message);
      show(this.error, true);
    }
  }
}

export class HistoryView {
  constructor(context) {
    this.empty = h("p", { class: "empty" }, "There are no endpoints.");
    const cards = h("div", { class: "wide" });
    this.endpoints = new Keyed(cards, ([name]) => new EndpointHistory(name, context));
    this.root = h("div", {}, cards, this.empty);
  }

  update(state) {
    const { endpoints } = state.status;
    show(this.empty, Object.keys(endpoints).length === 0);
    // What was changed and changed back between two looks is told by the events alone.
    const changed = newestChange(state.events ?? {});
    const items = Object.entries(endpoints).map(([name, { traffic }]) => [name, JSON.stringify([changed, traffic])]);
    this.endpoints.update(items, ([name]) => name);
  }
}

/** The number of the newest event that people have brought about. */
function newestChange(events) {
  const made = Object.values(events).filter(({ kind }) => !/^(replica|ingress|refusals)_/.test(kind));
  return Math.max(0, ...made.map(({ number }) => number));
}
