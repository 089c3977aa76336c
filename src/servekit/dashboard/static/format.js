// Numbers and times for people.

const LOCALE = "en";
const whole = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 1 });
const two = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 2 });
export const NONE = "–";

export function count(value) {
  return value === undefined || value === null ? NONE : whole.format(value);
}

export function rate(value) {
  if (value === undefined || value === null) return NONE;
  return (value >= 100 ? whole : one).format(value);
}

/** A share from 0 to 1. */
export function percent(share) {
  if (share === undefined || share === null || Number.isNaN(share)) return NONE;
  const value = share * 100;
  return `${(value > 0 && value < 10 ? two : one).format(value)} %`;
}

export function duration(seconds) {
  if (seconds === undefined || seconds === null) return NONE;
  if (seconds >= 60) return age(seconds);
  if (seconds >= 1) return `${two.format(seconds)} s`;
  const ms = seconds * 1000;
  return `${(ms >= 100 ? whole : one).format(ms)} ms`;
}

export function age(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function bytes(value) {
  if (!value) return NONE;
  const mebibytes = value / 2 ** 20;
  return mebibytes >= 1024 ? `${two.format(mebibytes / 1024)} GiB` : `${whole.format(mebibytes)} MiB`;
}

/** A moment of today as a time, an earlier one with its date. */
export function clock(at) {
  const moment = new Date(at * 1000);
  const time = moment.toTimeString().slice(0, 8);
  if (moment.toDateString() === new Date().toDateString()) return time;
  const two = (number) => String(number).padStart(2, "0");
  return `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())} ${time}`;
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** Shares of traffic by name, as "v1 90 %, v2 10 %". */
export function split(shares) {
  return Object.entries(shares).map(([name, share]) => `${name} ${percent(share)}`).join(", ") || "none";
}
