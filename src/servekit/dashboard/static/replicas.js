// The replicas of each backend: how each is, and what it has logged.

import { h, Keyed, own, setAttribute, setText, show } from "./dom.js";
import { age, bytes, count, duration, NONE } from "./format.js";
import { openLog } from "./log.js";
import { readyOf } from "./problems.js";

const COLUMNS = ["State", "Age", "In flight", "Running for", "Memory", "Revision", "Process"];
const LEVELS = { ready: "good", starting: "warn", draining: "soft" };

class Replica {
  constructor(backend, { replica }, context) {
    const label = `Log of replica ${replica.id} of ${backend}`;
    this.state = h("span", { class: "badge" });
    this.cells = COLUMNS.map((_, at) => h("td", { class: at === 0 || at === 6 ? null : "number" }));
    this.cells[0].append(this.state);
    const open = () => openLog(context.session, backend, replica.id);
    this.root = h("tr", {}, h("th", { scope: "row" }, replica.id), ...this.cells,
      h("td", {}, context.session.mayChange
        ? h("button", { type: "button", class: "quiet", "aria-label": label, on: { click: open } }, "Log") : null));
  }

  update({ replica, at }) {
    setText(this.state, replica.state);
    setAttribute(this.state, "class", `badge ${LEVELS[replica.state] ?? "soft"}`);
    const process = [replica.pid ? `pid ${replica.pid}` : "", replica.node].filter(Boolean).join(" on ");
    const texts = [
      age(at - replica.started), count(replica.outstanding), replica.busy_s ? duration(replica.busy_s) : NONE,
      bytes(replica.memory_bytes), count(replica.revision), process || NONE,
    ];
    texts.forEach((text, index) => setText(this.cells[index + 1], text));
  }
}

class Backend {
  constructor(name, context) {
    this.name = name;
    this.context = context;
    this.badge = h("span", { class: "badge" });
    this.about = h("p", { class: "soft" });
    this.trouble = h("details", {}, h("summary", {}, "What the last one that failed said"), h("pre", { tabindex: "0" }));
    const rows = h("tbody");
    this.replicas = new Keyed(rows, (item) => new Replica(name, item, context));
    const heads = ["Replica", ...COLUMNS, ""].map((title, at) => {
      const number = at > 1 && at < 7 ? "number" : null;
      return title ? h("th", { scope: "col", class: number }, title) : h("td", {});
    });
    this.restart = h("button", { type: "button", class: "quiet", on: { click: () => this.ask() } }, "Restart…");
    this.none = h("p", { class: "soft" }, "It has no replicas.");
    this.table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Replicas of ${name}` },
      h("table", { class: "figures" }, h("thead", {}, h("tr", {}, ...heads)), rows));
    this.root = h("article", { class: "card", "aria-label": `Backend ${name}` },
      h("header", {}, h("h2", {}, name), this.badge, context.session.mayChange ? this.restart : null),
      this.about, this.table, this.none, this.trouble);
  }

  update([, backend, state]) {
    const ready = readyOf(backend);
    const wanted = backend.wanted_replicas;
    setText(this.badge, `${ready} of ${wanted} ready`);
    setAttribute(this.badge, "class", `badge ${ready < wanted ? "warn" : "good"}`);
    const restarts = Object.entries(own(state.stat.restarts, this.name) ?? {});
    const reasons = restarts.map(([reason, times]) => `${count(times)} ${reason.replaceAll("_", " ")}`).join(", ");
    setText(this.about, [
      backend.target, `runtime ${backend.runtime}`, `adapter ${backend.adapter}`, `load ${backend.load}`,
      `${count(backend.queued)} waiting`, reasons ? `restarts: ${reasons}` : "no restarts",
      backend.config.autoscaling ? "autoscales" : "",
    ].filter(Boolean).join(" · "));
    const failure = backend.last_start_error || backend.last_failure;
    show(this.trouble, Boolean(failure));
    setText(this.trouble.lastChild, failure);
    show(this.table, backend.replicas.length > 0);
    show(this.none, backend.replicas.length === 0);
    this.replicas.update(backend.replicas.map((replica) => ({ replica, at: state.at })), ({ replica }) => replica.id);
  }

  ask() {
    const { session, confirmed } = this.context;
    confirmed({
      title: `Restart ${this.name}?`,
      says: ["Every replica is replaced by a new one, each of which is ready before an old one goes. Nothing is lost."],
      verb: "Restart",
      act: () => session.call("restart_backend", { name: this.name }),
    });
  }
}

export class ReplicasView {
  constructor(context) {
    this.empty = h("p", { class: "empty" }, "There are no backends.");
    const cards = h("div", { class: "wide" });
    this.backends = new Keyed(cards, ([name]) => new Backend(name, context));
    this.root = h("div", {}, cards, this.empty);
  }

  update(state) {
    const backends = Object.entries(state.status.backends);
    show(this.empty, backends.length === 0);
    this.backends.update(backends.map(([name, backend]) => [name, backend, state]), ([name]) => name);
  }
}
