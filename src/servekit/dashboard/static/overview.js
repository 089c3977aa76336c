// At a glance: what is served, how well, and what is wrong.

import { h, Keyed, setAttribute, setText, show } from "./dom.js";
import { EndpointView } from "./endpoint.js";
import { count, percent, rate } from "./format.js";
import { ERRORS_FROM, problemsOf, readyOf, runningAt } from "./problems.js";
import { shareOf } from "./rates.js";

class Figure {
  constructor(label) {
    this.value = h("dd", {});
    this.root = h("div", { class: "figure" }, h("dt", {}, label), this.value);
  }

  set(text, level = "") {
    setText(this.value, text);
    setAttribute(this.value, "class", level || null);
  }
}

class Problem {
  constructor([level, text]) {
    const word = { bad: "Wrong", warn: "Mind", info: "Note" }[level];
    this.root = h("li", { class: level }, h("span", { class: "level" }, word), h("span", {}, text));
  }

  update() {}
}

export class OverviewView {
  constructor(context) {
    this.context = context;
    this.figures = {
      rate: new Figure("Requests/s"),
      errors: new Figure("Errors, last minute"),
      running: new Figure("In flight"),
      waiting: new Figure("Waiting"),
      replicas: new Figure("Replicas ready"),
      endpoints: new Figure("Endpoints"),
    };
    this.fine = h("p", { class: "fine" }, "Nothing is wrong.");
    const list = h("ul", { class: "problems" });
    this.problems = new Keyed(list, (problem) => new Problem(problem));
    const cards = h("div", { class: "cards" });
    this.endpoints = new Keyed(cards, ([name]) => new EndpointView(name, context));
    this.empty = h("div", { class: "empty", hidden: true },
      h("h2", {}, "Nothing is served yet"),
      h("p", {}, "Deploy a configuration file, or create an endpoint and a backend from Python:"),
      h("pre", {}, "servekit deploy servekit.toml"),
      h("pre", {}, "import servekit as serve\nserve.init(address=\"auto\")\nserve.create_backend(\"v1\", model)\n"
        + "serve.create_endpoint(\"model\", \"/model\", backend=\"v1\")"));
    this.root = h("div", { class: "overview" },
      h("section", { "aria-label": "At a glance" },
        h("dl", { class: "glance" }, ...Object.values(this.figures).map((figure) => figure.root))),
      h("section", { class: "wrong", "aria-label": "What is wrong" }, this.fine, list),
      h("section", { "aria-label": "Endpoints" }, cards, this.empty));
  }

  end() {
    this.endpoints.update([], ([name]) => name);
  }

  update(state) {
    const endpoints = Object.entries(state.status.endpoints);
    this.updateFigures(state, endpoints);
    const problems = problemsOf(state, this.context.rates);
    this.problems.update(problems, ([level, text]) => level + text);
    show(this.fine, problems.length === 0);
    show(this.empty, endpoints.length === 0);
    this.endpoints.update(endpoints.map(([name, endpoint]) => [name, endpoint, state]), ([name]) => name);
  }

  updateFigures(state, endpoints) {
    const backends = Object.values(state.status.backends);
    const sum = (list, of) => list.reduce((total, each) => total + of(each), 0);
    const rates = endpoints.map(([name]) => this.context.rates.of("endpoints", name));
    const ready = sum(backends, readyOf);
    const wanted = sum(backends, (backend) => backend.wanted_replicas);
    const share = shareOf({
      requests: sum(rates, ({ recent }) => recent.requests), errors: sum(rates, ({ recent }) => recent.errors),
    });
    this.figures.rate.set(rate(sum(rates, ({ perSecond }) => perSecond)));
    this.figures.errors.set(percent(share), share >= ERRORS_FROM ? "bad" : "");
    this.figures.running.set(count(sum(backends, runningAt)));
    const waiting = sum(backends, ({ queued }) => queued) + sum(endpoints, ([, { parked }]) => parked);
    this.figures.waiting.set(count(waiting), waiting > 0 ? "warn" : "");
    this.figures.replicas.set(`${count(ready)} of ${count(wanted)}`, ready < wanted ? "warn" : "");
    this.figures.endpoints.set(count(endpoints.length));
  }
}
