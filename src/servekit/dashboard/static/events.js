// What has happened, and what handlers have raised, in groups.

import { h, Keyed, setAttribute, setText, show } from "./dom.js";
import { clock, count, plural } from "./format.js";

const BAD = /_(failed|unhealthy|killed)$|^ingress_ended$/;
const MIND = /^(refusals_began|replica_(ejected|replaced|recycled)|backend_put_back|controller_restarted)$/;

/** The error itself: before the traceback of a handler that could not be built, behind all others. */
function errorOf({ what, type, traceback }) {
  return traceback.trim().split("\n").at(what === "build" ? 0 : -1) || type;
}

class Group {
  constructor() {
    this.title = h("strong", {});
    this.count = h("span", { class: "badge bad" });
    this.where = h("span", { class: "soft" });
    this.when = h("span", { class: "soft" });
    this.traceback = h("pre", { tabindex: "0" });
    this.root = h("li", {}, h("details", {},
      h("summary", {}, this.count, " ", this.title, " ", this.where), this.when, this.traceback));
  }

  update([, group]) {
    setText(this.title, errorOf(group));
    setText(this.count, `${count(group.count)} ×`);
    const during = group.what === "call" ? "" : `, in ${group.what}`;
    setText(this.where, `${group.backend}, ${group.file}:${group.line}, ${group.function}${during}`);
    const request = group.request_id ? `; the last in request ${group.request_id}` : "";
    const endpoint = group.endpoint ? ` to ${group.endpoint}` : "";
    setText(this.when, `First ${clock(group.first_at)}, last ${clock(group.last_at)}${request}${endpoint}`);
    setText(this.traceback, group.traceback);
  }
}

class Happening {
  constructor() {
    this.time = h("time", {});
    this.kind = h("span", { class: "badge" });
    this.text = h("span", { class: "text" });
    this.who = h("span", { class: "soft" });
    this.detail = h("details", {}, h("summary", {}, "More"), h("pre", { tabindex: "0" }));
    this.root = h("li", {}, this.time, this.kind, h("div", {}, this.text, " ", this.who, this.detail));
  }

  update([, event]) {
    setText(this.time, clock(event.at));
    setAttribute(this.time, "datetime", event.time);
    setText(this.kind, event.kind.replaceAll("_", " "));
    const level = BAD.test(event.kind) ? "bad" : MIND.test(event.kind) ? "warn" : "soft";
    setAttribute(this.kind, "class", `badge ${level}`);
    setText(this.text, event.count > 1 ? `${event.text} (${count(event.count)} times since ${clock(event.first_at)})` : event.text);
    setText(this.who, event.who ? `by ${event.who}` : "");
    show(this.detail, Boolean(event.detail));
    setText(this.detail.lastChild, event.detail);
  }
}

export class EventsView {
  constructor() {
    const groups = h("ul", { class: "groups" });
    const happened = h("ul", { class: "happened" });
    this.groups = new Keyed(groups, () => new Group());
    this.happened = new Keyed(happened, () => new Happening());
    this.noErrors = h("p", { class: "fine" }, "No handler has raised anything.");
    this.total = h("p", { class: "soft" });
    this.root = h("div", { class: "columns" },
      h("section", { class: "card" }, h("h2", {}, "Errors of handlers"), this.noErrors, groups),
      h("section", { class: "card" }, h("h2", {}, "What has happened"), this.total, happened));
  }

  update(state) {
    const groups = Object.entries(state.failures ?? {}).sort(([, a], [, b]) => b.last_at - a.last_at);
    show(this.noErrors, groups.length === 0);
    this.groups.update(groups, ([key]) => key);
    const events = Object.entries(state.events ?? {}).sort(([, a], [, b]) => b.number - a.number);
    setText(this.total, events.length ? `The last ${plural(events.length, "event")}; servekit events has more.` : "Nothing yet.");
    this.happened.update(events, ([key]) => key);
  }
}
