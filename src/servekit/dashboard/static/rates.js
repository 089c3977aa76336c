// How fast counters go up, as this page has seen them.

import { own } from "./dom.js";

const KEPT_S = 75;
const RATE_S = 10;
const MINUTE_S = 60;

/** Of one endpoint or backend, since the instance began: requests and errors, which are answers with a status from 500 on. */
function counted(tally) {
  let errors = 0;
  for (const [status, requests] of Object.entries(tally?.by_status ?? {})) {
    if (Number(status) >= 500) errors += requests;
  }
  return { requests: tally?.requests ?? 0, errors };
}

export class Rates {
  /** `points`: the samples of the controller, for what was before this page. */
  constructor(points) {
    this.points = points;
    this.samples = [];
  }

  add(state) {
    const { at, stat } = state;
    const last = this.samples[this.samples.length - 1];
    if (last && (at <= last.at || wentBack(last.stat, stat))) this.samples = [];
    // The state is changed in place; what is kept of it must not be.
    this.samples.push({ at, stat: structuredClone(stat) });
    while (this.samples[0].at < at - KEPT_S) this.samples.shift();
  }

  /** Of an endpoint or a backend, as `kind` says, or of a backend's `part` of an endpoint. Of the last minute: `recent`. */
  of(kind, name, part) {
    const last = this.samples[this.samples.length - 1];
    const now = counted(tallyOf(last.stat, kind, name, part));
    const [short, long] = [RATE_S, MINUTE_S].map((seconds) => this.samples.find(({ at }) => at >= last.at - seconds));
    const soon = counted(tallyOf(short.stat, kind, name, part));
    const then = counted(tallyOf(long.stat, kind, name, part));
    const seconds = last.at - short.at;
    const recent = { requests: now.requests - then.requests, errors: now.errors - then.errors };
    for (const point of this.points.of(kind, name, part).points) {
      if (point.at > last.at - MINUTE_S && point.at <= long.at) {
        recent.requests += point.requests;
        recent.errors += point.errors;
      }
    }
    return { ...now, recent, errorShare: shareOf(recent), perSecond: seconds > 0 ? (now.requests - soon.requests) / seconds : 0 };
  }
}

/** What `stat` says: `kind` is "endpoints" or "backends"; of an endpoint, the `part` of a backend where one is named. */
export function tallyOf(stat, kind, name, part) {
  const tally = own(stat[kind], name);
  return part === undefined ? tally : own(tally?.backends, part);
}

/** Of requests, which have failed; null where there were none. */
export function shareOf({ requests, errors }) {
  return requests > 0 ? errors / requests : null;
}

function wentBack(before, after) {
  return ["endpoints", "backends"].some((kind) =>
    Object.entries(before[kind]).some(([name, tally]) => {
      const now = own(after[kind], name);
      return now !== undefined && now.requests < tally.requests;
    }));
}
