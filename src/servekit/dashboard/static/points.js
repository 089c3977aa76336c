// The last hour of endpoints, backends and parts, as the controller has sampled it: asked for once, and then added to.

import { own } from "./dom.js";

const HOUR_S = 3600;
const GAP_S = 25; // Samples are 10 s apart.
const AGAIN_MS = 10_000;

/** Of one endpoint or backend, or a backend's part of an endpoint: the samples, and the lines of charts made of them. */
class History {
  constructor(kind, name, part) {
    this.arguments = { [kind.slice(0, -1)]: name };
    this.told = (recent) => (part === undefined ? own(recent?.[kind], name) : own(own(recent?.parts, name), part)) ?? [];
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
    this.histories = new Map();
  }

  /** `recent`: the newest samples, by name. */
  add(recent) {
    for (const history of this.histories.values()) {
      const newest = history.told(recent).at(-1);
      const last = history.points.at(-1);
      if (!newest || !history.asked || newest.at <= (last?.at ?? 0)) continue;
      if (last && newest.at - last.at > GAP_S) this.ask(history);
      else history.set([...history.points, newest]);
    }
  }

  async ask(history) {
    history.asked = true;
    try {
      history.set(history.told(await this.session.call("recent", history.arguments)));
    } catch {
      setTimeout(() => {
        history.asked = false; // It is asked again when a chart is drawn next.
      }, AGAIN_MS);
    }
  }

  of(kind, name, part) {
    const key = JSON.stringify([kind, name, part]);
    let history = this.histories.get(key);
    if (!history) {
      history = new History(kind, name, part);
      this.histories.set(key, history);
    }
    if (!history.asked) this.ask(history);
    return history;
  }

  /** A chart's data of one name: the times, and for each of the functions its values. */
  lines(kind, name, ...values) {
    const { points } = this.of(kind, name);
    return [points.map(({ at }) => at), ...values.map((value) => points.map(value))];
  }
}
