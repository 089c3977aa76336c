// Light, dark, or as the system has it.

const KEY = "servekit-theme";
const NEXT = { system: "dark", dark: "light", light: "system" };
export const changed = new EventTarget();

export function theme() {
  return localStorage.getItem(KEY) ?? "system";
}

export function applyTheme() {
  document.documentElement.dataset.theme = theme();
}

export function nextTheme() {
  localStorage.setItem(KEY, NEXT[theme()]);
  applyTheme();
  changed.dispatchEvent(new Event("change"));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => changed.dispatchEvent(new Event("change")));

/** The value of a variable of the style sheet, for what is drawn on a canvas. */
export function cssColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
