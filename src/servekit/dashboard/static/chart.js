// A line chart over time, by uPlot. What it shows is also said in a line of text below it.

import uPlot from "./vendor/uPlot.esm.js";
import { h, setAttribute, setText } from "./dom.js";
import { changed, cssColor } from "./theme.js";

const HEIGHT = 132;
const SHORTEST_S = 600;

export class Chart {
  /** `format(value)`: of values, as text. */
  constructor({ title, format }) {
    this.series = [];
    this.items = [];
    this.format = format;
    this.title = title;
    this.data = null;
    this.box = h("div", { class: "plot", role: "img", "aria-label": title });
    this.legend = h("p", { class: "legend" });
    this.root = h("figure", { class: "chart" }, h("figcaption", {}, title), this.box, this.legend);
    this.resized = new ResizeObserver(() => this.draw());
    this.resized.observe(this.box);
    this.repaint = () => this.rebuild();
    changed.addEventListener("change", this.repaint);
  }

  /** Which lines there are: names, each with the class of its colour. */
  setSeries(series) {
    const same = series.length === this.series.length
      && series.every(({ name, color }, at) => name === this.series[at].name && color === this.series[at].color);
    if (same) return;
    this.series = series;
    this.items = series.map(() => h("span", { class: "value" }));
    const keys = series.map(({ name, color }, at) => h("span", { class: "key" },
      h("span", { class: `dot ${color}` }), `${name} `, this.items[at]));
    this.legend.replaceChildren(...keys);
    this.data = null;
    this.rebuild();
  }

  end() {
    this.resized.disconnect();
    changed.removeEventListener("change", this.repaint);
    this.plot?.destroy();
  }

  /** `data`: the times, then the values of each line, null where there is none. */
  update(data) {
    if (data === this.data) return;
    this.data = data;
    const last = this.series.map((_, at) => this.format(lastOf(data[at + 1])));
    this.items.forEach((item, at) => setText(item, last[at]));
    const told = this.series.map(({ name }, at) => `${name} ${last[at]}`).join(", ");
    setAttribute(this.box, "aria-label", `${this.title}: now ${told}`);
    this.draw();
  }

  rebuild() {
    this.plot?.destroy();
    this.plot = null;
    this.draw();
  }

  draw() {
    const width = this.box.clientWidth;
    if (!width || !this.data) return;
    if (!this.plot) {
      this.plot = new uPlot(this.options(width), this.data, this.box);
      return;
    }
    if (this.plot.width !== width) this.plot.setSize({ width, height: HEIGHT });
    if (this.plot.data !== this.data) this.plot.setData(this.data);
  }

  options(width) {
    const [ink, line] = [cssColor("--soft"), cssColor("--line")];
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, points: { size: 5 } },
      scales: { x: { range: (_, first, last) => span(first, last) }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [
        { ...axis, size: 26, gap: 6, values: (_, times) => times.map(hour) },
        { ...axis, size: 58, gap: 4, values: (_, values) => values.map((value) => this.format(value)) },
      ],
      series: [{}, ...this.series.map(({ name, color }) => ({
        label: name, stroke: cssColor(`--${color}`), width: 1.75, points: { show: false }, spanGaps: false,
      }))],
    };
  }
}

/** From when to when the axis goes: to now where there are no samples. */
function span(first, last) {
  const end = last ?? Date.now() / 1000;
  return [Math.min(first ?? end, end - SHORTEST_S), end];
}

function hour(at) {
  return new Date(at * 1000).toTimeString().slice(0, 5);
}

function lastOf(values) {
  for (let at = values.length - 1; at >= 0; at -= 1) if (values[at] !== null) return values[at];
  return null;
}
