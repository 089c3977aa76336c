// What is wrong, as sentences, the worst first: a pure function of the state.

import { own } from "./dom.js";
import { count, percent } from "./format.js";

export const READY = "ready";
export const ERRORS_FROM = 0.01;

export function readyOf(backend) {
  return (backend?.replicas ?? []).filter((replica) => replica.state === READY).length;
}

export function runningAt(backend) {
  return backend.replicas.reduce((total, replica) => total + replica.outstanding, 0);
}

/** Pairs of a severity ("bad", "warn" or "info") and a text. */
export function problemsOf(state, rates) {
  const { status } = state;
  const found = [];
  for (const [name, endpoint] of Object.entries(status.endpoints)) {
    if (isDown(status, endpoint)) found.push(["bad", `Endpoint ${name} has traffic, and no replica that is ready.`]);
    found.push(...failing(`Endpoint ${name}`, "bad", rates.of("endpoints", name)));
    const versions = Object.keys(endpoint.traffic);
    if (versions.length < 2) continue;
    for (const version of versions) {
      found.push(...failing(`Version ${version} of ${name}`, "warn", rates.of("endpoints", name, version)));
    }
  }
  for (const [name, backend] of Object.entries(status.backends)) {
    const ready = readyOf(backend);
    if (ready < backend.wanted_replicas) {
      found.push(["warn", `Backend ${name} has ${ready} of ${backend.wanted_replicas} replicas.${cause(backend)}`]);
    }
  }
  const down = status.ingress.filter((worker) => !worker.ready).length;
  if (down) found.push(["warn", `Of ${status.ingress.length} ingress workers, ${down} are not ready.`]);
  for (const problem of status.plugin_problems) found.push(["warn", `A plugin is not in use: ${problem}`]);
  for (const [name, error] of Object.entries(state.failing)) found.push(["warn", `What is shown of ${name} is old: ${error}`]);
  if (status.deploy) found.push(["info", `${status.deploy[0].toUpperCase()}${status.deploy.slice(1)}.`]);
  const order = ["bad", "warn", "info"];
  return found.sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
}

function failing(what, level, { errorShare, recent }) {
  if (errorShare === null || errorShare < ERRORS_FROM) return [];
  const share = `${count(recent.errors)} of ${count(recent.requests)} requests of the last minute failed`;
  return [[level, `${what}: ${share}, ${percent(errorShare)}.`]];
}

function cause(backend) {
  const failure = backend.last_start_error || backend.last_failure;
  return failure ? ` The last one: ${firstLine(failure)}` : "";
}

/** The error itself, of a text with a traceback. */
export function firstLine(failure) {
  const line = failure.trim().split("\n")[0];
  return line.slice(line.lastIndexOf(" could not be built: ") + 1 || 0).replace(/^could not be built: /, "");
}

export function isDown(status, endpoint) {
  const served = Object.entries(endpoint.traffic).filter(([, share]) => share > 0);
  return served.length > 0 && !served.some(([name]) => canServe(own(status.backends, name)));
}

function canServe(backend) {
  if (!backend) return false;
  const scaling = backend.config.autoscaling;
  return readyOf(backend) > 0 || (scaling !== null && scaling.min_replicas === 0 && backend.wanted_replicas === 0);
}
