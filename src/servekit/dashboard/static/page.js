// The frame around the views: which instance it is, whether what is shown is what there is, and the way about.

import { confirmed } from "./confirm.js";
import { ConfigurationView } from "./configuration.js";
import { h, setAttribute, setText, show } from "./dom.js";
import { EventsView } from "./events.js";
import { HistoryView } from "./history.js";
import { Live } from "./live.js";
import { OverviewView } from "./overview.js";
import { PluginsView } from "./plugins.js";
import { Points } from "./points.js";
import { Rates } from "./rates.js";
import { ReplicasView } from "./replicas.js";
import { nextTheme, theme } from "./theme.js";

const VIEWS = [
  ["overview", "Overview", OverviewView],
  ["replicas", "Replicas", ReplicasView],
  ["events", "Events", EventsView],
  ["history", "History", HistoryView],
  ["plugins", "Plugins", PluginsView],
  ["configuration", "Configuration", ConfigurationView],
];

export class Page {
  constructor(session) {
    this.session = session;
    this.points = new Points(session);
    this.rates = new Rates(this.points);
    this.state = null;
    this.name = h("span", { class: "instance" });
    this.connection = h("span", { class: "connection waiting", role: "status" }, "Connecting…");
    this.theme = h("button", { type: "button", class: "quiet", on: { click: () => this.nextTheme() } });
    this.links = new Map(VIEWS.map(([id, title]) => [id, h("a", { href: `#/${id}` }, title)]));
    this.main = h("main", { id: "main", tabindex: "-1" });
    this.lost = h("div", { class: "lost", role: "alert", hidden: true });
    this.broken = h("div", { class: "lost", role: "alert", hidden: true });
    this.root = h("div", { class: "page" }, this.header(), this.lost, this.broken, this.main);
    this.routed = () => this.route();
    this.showTheme();
    this.live = new Live(session, (state) => this.update(state), (why) => this.connected(why));
  }

  header() {
    const logOut = () => this.session.logOut().catch(() => {});
    return h("header", {},
      h("a", { class: "skip", href: "#main", on: { click: (event) => this.skip(event) } }, "Skip to content"),
      h("div", { class: "brand" }, h("strong", {}, "servekit"), this.name),
      h("nav", { "aria-label": "Views" }, ...this.links.values()),
      h("div", { class: "tools" },
        this.connection,
        this.session.mayChange ? null : h("span", { class: "tag" }, "read only"),
        this.theme,
        h("button", { type: "button", class: "quiet", on: { click: logOut } }, "Log out")));
  }

  begin() {
    addEventListener("hashchange", this.routed);
    this.route();
    this.live.run();
  }

  end() {
    removeEventListener("hashchange", this.routed);
    this.live.close();
    this.view?.end?.();
  }

  skip(event) {
    event.preventDefault();
    this.main.focus();
  }

  route() {
    const [, asked] = location.hash.split("/");
    const [id, title, View] = VIEWS.find(([each]) => each === asked) ?? VIEWS[0];
    for (const [each, link] of this.links) setAttribute(link, "aria-current", each === id ? "page" : null);
    const context = { session: this.session, rates: this.rates, points: this.points, confirmed };
    this.view?.end?.();
    this.view = new View(context);
    this.title = title;
    this.main.replaceChildren(h("h1", { class: "unseen" }, title), this.view.root);
    if (this.state) this.attempt(() => this.view.update(this.state));
    this.showTitle();
  }

  update(state) {
    this.state = state;
    this.attempt(() => {
      this.rates.add(state);
      this.points.add(state.recent);
      setText(this.name, state.status.name);
      this.showTitle();
      this.view.update(state);
    });
  }

  /** Show something. An error of that is a fault of the page, and not one of the connection: it is said as such. */
  attempt(showing) {
    let text = "";
    try {
      showing();
    } catch (error) {
      text = `${this.title} cannot be shown, by a fault of this page: ${error}. Other views may be right; reload to try again.`;
      if (this.broken.textContent !== text) console.error(error);
    }
    setText(this.broken, text);
    show(this.broken, Boolean(text));
  }

  showTitle() {
    document.title = this.state ? `${this.title} · ${this.state.status.name} · servekit` : "servekit";
  }

  connected(why) {
    setAttribute(this.connection, "class", why ? "connection waiting" : "connection");
    setText(this.connection, why ? "Reconnecting…" : "Live");
    setText(this.lost, `What is shown may be old: ${why}. It is tried again.`);
    show(this.lost, Boolean(why));
  }

  nextTheme() {
    nextTheme();
    this.showTheme();
  }

  showTheme() {
    setText(this.theme, `Theme: ${theme()}`);
  }
}
