// A question before something is done. The answer is awaited, and so is what is done.

import { h, setAttribute, setText, show } from "./dom.js";

export function confirmed({ title, says, verb, act }) {
  const error = h("p", { class: "error", role: "alert", hidden: true });
  const yes = h("button", { class: "primary", type: "button" }, verb);
  const no = h("button", { type: "button" }, "Cancel");
  const dialog = h("dialog", { "aria-labelledby": "question" },
    h("h2", { id: "question" }, title), ...says.map((text) => h("p", {}, text)), error,
    h("div", { class: "buttons" }, yes, no));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve();
    });
    no.addEventListener("click", () => dialog.close());
    yes.addEventListener("click", async () => {
      setAttribute(yes, "disabled", true);
      setText(yes, "Under way…");
      try {
        await act();
        dialog.close();
      } catch (failure) {
        setText(error, failure.message);
        show(error, true);
        setAttribute(yes, "disabled", null);
        setText(yes, verb);
      }
    });
  });
}
