// The last hour of endpoints and backends, as the controller has sampled it: asked for once, and then added to.

import { own } from "./dom.js";

const HOUR_S = 3600;
const GAP_S = 25; // Samples are 10 s apart.
const AGAIN_MS = 10_000;

/** Of one name: the samples, and the lines of charts that were made of them. */
class History {
  constructor() {
    this.points = [];
    this.asked = false;
    this.lines = new Map();
  }

  set(points) {
    const first = (points.at(-1)?.at ?? 0) - HOUR_S;
    this.points = points.filter(({ at }) => at >= first);
    this.lines.clear();
  }
}

export class Points {
  constructor(session) {
    this.session = session;
    this.histories = { endpoints: new Map(), backends: new Map() };
  }

  /** `recent`: the newest samples, by name. */
  add(recent) {
    for (const kind of ["endpoints", "backends"]) {
      for (const [name, history] of this.histories[kind]) {
        const newest = (own(recent?.[kind], name) ?? []).at(-1);
        const last = history.points.at(-1);
        if (!newest || !history.asked || newest.at <= (last?.at ?? 0)) continue;
        if (last && newest.at - last.at > GAP_S) this.ask(kind, name, history);
        else history.set([...history.points, newest]);
      }
    }
  }

  async ask(kind, name, history) {
    history.asked = true;
    try {
      const told = await this.session.call("recent", { [kind.slice(0, -1)]: name });
      history.set(own(told[kind], name) ?? []);
    } catch {
      setTimeout(() => {
        history.asked = false; // It is asked again when a chart is drawn next.
      }, AGAIN_MS);
    }
  }

  of(kind, name) {
    let history = this.histories[kind].get(name);
    if (!history) {
      history = new History();
      this.histories[kind].set(name, history);
    }
    if (!history.asked) this.ask(kind, name, history);
    return history;
  }

  /** A chart's data of one name: the times, and for each of the functions its values. */
  lines(kind, name, ...values) {
    const { points } = this.of(kind, name);
    return [points.map(({ at }) => at), ...values.map((value) => points.map(value))];
  }
}
