// One endpoint: how it is, how its traffic is split, and how each version does.

import { h, Keyed, own, setAttribute, setText, show } from "./dom.js";
import { Effect } from "./effect.js";
import { count, duration, percent, plural, rate } from "./format.js";
import { EndpointCharts } from "./charts.js";
import { ERRORS_FROM, isDown, readyOf, runningAt } from "./problems.js";
import { tallyOf } from "./rates.js";
import { SplitBar } from "./split.js";

const COLORS = 6;
const ENDED = ["promoted", "rolled_back"]; // Roll-outs that have.
const COLUMNS = ["Share", "Requests", "per s", "Errors", "Error rate", "p50", "p99", "Replicas", "In flight", "Waiting"];

class Version {
  constructor({ name, color }) {
    const dot = color ? h("span", { class: `dot ${color}` }) : null;
    this.name = h("th", { scope: "row", class: "name", title: name }, dot, name);
    this.cells = COLUMNS.map(() => h("td", { class: "number" }));
    this.root = h("tr", {}, this.name, ...this.cells);
  }

  /** `backends`: its own, or those of all versions. */
  update({ share, rates, latency, backends }) {
    const sum = (of) => backends.reduce((total, backend) => total + of(backend), 0);
    const [ready, wanted] = [sum(readyOf), sum((backend) => backend.wanted_replicas)];
    const texts = [
      percent(share), count(rates.requests), rate(rates.perSecond), count(rates.errors), percent(rates.errorShare),
      duration(latency?.p50), duration(latency?.p99),
      `${count(ready)} of ${count(wanted)}`, count(sum(runningAt)), count(sum((backend) => backend.queued)),
    ];
    texts.forEach((text, at) => setText(this.cells[at], text));
    setAttribute(this.cells[4], "class", rates.errorShare >= ERRORS_FROM ? "number bad" : "number");
    setAttribute(this.cells[7], "class", ready < wanted ? "number warn" : "number");
  }
}

export class EndpointView {
  constructor(name, context) {
    this.name = name;
    this.context = context;
    this.draft = null;
    this.colors = new Map();
    this.badge = h("span", { class: "badge" });
    this.route = h("code", {});
    this.methods = h("span", { class: "soft" });
    this.policy = h("span", { class: "soft" });
    this.parked = h("span", { class: "warn" });
    this.rollout = h("p", { class: "soft", hidden: true });
    this.shadow = h("p", { class: "soft", hidden: true });
    this.split = new SplitBar({
      label: `Traffic of ${name}`,
      colorOf: (version) => this.colorOf(version),
      mayChange: context.session.mayChange,
      onMove: (parts) => this.drafted(parts),
    });
    this.unsplit = h("p", { class: "soft" }, "No version has traffic.");
    this.effect = new Effect({ apply: () => this.apply(), discard: () => this.settled() });
    this.others = h("div", { class: "others" });
    const rows = h("tbody");
    this.versions = new Keyed(rows, (version) => new Version(version));
    this.all = new Version({ name: "All" }); // With what servekit refused, which no version has.
    this.charts = new EndpointCharts(name, context.points);
    const heads = COLUMNS.map((title) => h("th", { scope: "col", class: "number" }, title));
    this.root = h("article", { class: "card endpoint", "aria-label": `Endpoint ${name}` },
      h("header", {}, h("h2", {}, name), this.badge, this.route, this.methods, this.policy, this.parked),
      this.rollout, this.shadow,
      this.split.root, this.unsplit, this.effect.root,
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Versions of ${name}` },
        h("table", { class: "figures" },
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Version"), ...heads)), rows, h("tfoot", {}, this.all.root))),
      this.others, this.charts.root);
  }

  end() {
    this.charts.end();
  }

  colorOf(version) {
    if (!this.colors.has(version)) this.colors.set(version, `v${this.colors.size % COLORS}`);
    return this.colors.get(version);
  }

  update([, endpoint, state]) {
    this.endpoint = endpoint;
    this.state = state;
    const names = Object.keys(endpoint.traffic);
    setText(this.route, endpoint.route === null ? "no HTTP" : endpoint.route + (endpoint.mount ? "/…" : ""));
    setText(this.methods, endpoint.methods.includes("*") ? "every method" : endpoint.methods.join(", "));
    setText(this.policy, endpoint.policy + (endpoint.strict ? ", strict" : ""));
    setText(this.parked, endpoint.parked ? `${plural(endpoint.parked, "request waits", "requests wait")} for a version that can serve` : "");
    const down = isDown(state.status, endpoint);
    setText(this.badge, names.length === 0 ? "no traffic" : down ? "cannot serve" : "serves");
    setAttribute(this.badge, "class", `badge ${names.length === 0 ? "soft" : down ? "bad" : "good"}`);
    const rollout = own(state.status.rollouts, this.name);
    const moves = rollout !== undefined && !ENDED.includes(rollout.state);
    show(this.rollout, moves);
    if (moves) setText(this.rollout, `Roll-out to ${rollout.candidate}: ${rollout.state}, step ${rollout.step} of ${rollout.steps.length}. ${rollout.reason}`);
    const shadow = own(state.status.shadows, this.name);
    show(this.shadow, shadow !== undefined);
    if (shadow) setText(this.shadow, `Shadow: ${percent(shadow.share)} of its requests are copied to ${shadow.backend}.`);
    const versions = names.map((name) => this.version(name));
    this.versions.update(versions, ({ name }) => name);
    this.all.update({
      share: versions.length ? 1 : null,
      rates: this.context.rates.of("endpoints", this.name),
      latency: own(state.stat.endpoints, this.name)?.latency_s.minute,
      backends: versions.flatMap(({ backends }) => backends),
    });
    this.charts.update(versions);
    this.showSplit();
  }

  version(name) {
    return {
      name,
      color: this.colorOf(name),
      share: this.endpoint.traffic[name],
      rates: this.context.rates.of("endpoints", this.name, name),
      latency: tallyOf(this.state.stat, "endpoints", this.name, name)?.latency_s.minute,
      backends: [own(this.state.status.backends, name)].filter(Boolean),
    };
  }

  // -- its split ------------------------------------------------------------------------------------------------------

  get parts() {
    return this.draft ?? Object.entries(this.endpoint.traffic);
  }

  drafted(parts) {
    this.draft = parts && this.isServed(parts) ? null : parts;
    this.effect.failed("");
    this.showSplit();
  }

  isServed(parts) {
    const { traffic } = this.endpoint;
    return parts.length === Object.keys(traffic).length && parts.every(([name, share]) => own(traffic, name) === share);
  }

  /** There is no draft any more; the keyboard is where it was. */
  settled() {
    this.drafted(null);
    this.split.handles[0]?.focus();
  }

  showSplit() {
    const parts = this.parts;
    show(this.split.root, parts.length > 0);
    show(this.unsplit, parts.length === 0);
    this.split.update(parts);
    const { perSecond } = this.context.rates.of("endpoints", this.name);
    this.effect.update(this.endpoint.traffic, this.draft, perSecond);
    this.showOthers(parts);
  }

  /** Backends that have none of the traffic may be put beside those that have. */
  showOthers(parts) {
    const taken = new Set(Object.values(this.state.status.endpoints).flatMap((endpoint) => Object.keys(endpoint.traffic)));
    for (const [name] of parts) taken.add(name);
    const free = this.context.session.mayChange ? Object.keys(this.state.status.backends).filter((name) => !taken.has(name)) : [];
    const shown = [...this.others.children].map((button) => button.dataset.name);
    if (free.length === shown.length && free.every((name, at) => name === shown[at])) return;
    this.others.replaceChildren(...free.map((name) => h("button", {
      type: "button", class: "quiet soft", "data-name": name, "aria-label": `Add ${name} to the split of ${this.name}`,
      on: { click: () => this.addVersion(name) },
    }, `+ ${name}`)));
  }

  addVersion(name) {
    this.drafted([...this.parts, [name, this.parts.length === 0 ? 1 : 0]]);
    this.split.handles.at(-1)?.focus();
  }

  async apply() {
    this.effect.busy(true);
    this.effect.failed("");
    const shares = Object.fromEntries(this.draft);
    try {
      await this.context.session.call("set_traffic", { name: this.name, shares });
      this.endpoint.traffic = shares;
      this.settled();
    } catch (error) {
      this.effect.failed(error.message);
    } finally {
      this.effect.busy(false);
    }
  }
}
