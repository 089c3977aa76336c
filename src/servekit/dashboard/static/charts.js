// The charts of an endpoint over the last hour: its latency, and its versions side by side.

import { Chart } from "./chart.js";
import { h } from "./dom.js";
import { duration, rate } from "./format.js";

const SAMPLE_S = 10;
const PERCENTILES = [["p50", "p-low"], ["p90", "p-middle"], ["p99", "p-high"]].map(([name, color]) => ({ name, color }));

export class EndpointCharts {
  constructor(name, points) {
    this.name = name;
    this.points = points;
    this.rates = new Chart({ title: "Requests/s, by version", format: rate });
    this.errors = new Chart({ title: "Errors/s, by version", format: rate });
    this.latency = new Chart({ title: "Latency", format: duration });
    this.latency.setSeries(PERCENTILES);
    this.charts = [this.latency, this.rates, this.errors];
    this.root = h("div", { class: "charts" }, ...this.charts.map((chart) => chart.root));
    this.drawn = [];
    this.keys = "";
  }

  end() {
    for (const chart of this.charts) chart.end();
  }

  /** `versions`: with the name and the colour of each. */
  update(versions) {
    const histories = [this.points.of("endpoints", this.name), ...versions.map(({ name }) => this.points.of("endpoints", this.name, name))];
    const seen = histories.map(({ points }) => points);
    const series = versions.map(({ name, color }) => ({ name, color }));
    const keys = JSON.stringify(series);
    if (keys === this.keys && seen.length === this.drawn.length && seen.every((points, at) => points === this.drawn[at])) return;
    this.drawn = seen;
    this.keys = keys;
    this.latency.update(this.points.lines("endpoints", this.name, ({ p50 }) => p50, ({ p90 }) => p90, ({ p99 }) => p99));
    for (const [chart, value] of [[this.rates, ({ requests }) => requests], [this.errors, ({ errors }) => errors]]) {
      chart.setSeries(series);
      chart.update(aligned(seen[0], seen.slice(1), value));
    }
  }
}

/** The values of several histories, a second, at the times of the first. */
function aligned(times, histories, value) {
  const byTime = histories.map((points) => new Map(points.map((point) => [point.at, value(point) / SAMPLE_S])));
  return [times.map(({ at }) => at), ...byTime.map((values) => times.map(({ at }) => values.get(at) ?? null))];
}
