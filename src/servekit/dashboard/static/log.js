// The last lines that a replica has logged and printed, and those that come.

import { h, setText } from "./dom.js";

const LOOK_MS = 2000;

export function openLog(session, backend, replica) {
  const lines = h("pre", { class: "log", tabindex: "0", "aria-label": "Lines" }, "…");
  const close = h("button", { type: "button" }, "Close");
  const dialog = h("dialog", { class: "wide", "aria-labelledby": "log-of" },
    h("h2", { id: "log-of" }, `Log of ${backend} ${replica}`), lines, h("div", { class: "buttons" }, close));
  let timer = 0;
  async function look() {
    try {
      const told = await session.call("log_tail", { backend, replica });
      const atEnd = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 4;
      setText(lines, told.length ? told.join("\n") : "It has logged and printed nothing that is kept.");
      if (atEnd) lines.scrollTop = lines.scrollHeight;
    } catch (error) {
      setText(lines, error.message);
    }
    if (dialog.open) timer = setTimeout(look, LOOK_MS);
  }
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    clearTimeout(timer);
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
  look();
}
