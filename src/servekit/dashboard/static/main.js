// The page: the login, or what the instance serves.

import { LoginView } from "./login.js";
import { Page } from "./page.js";
import { Session } from "./session.js";
import { applyTheme } from "./theme.js";

const session = new Session();
let shown = null;

function show(view) {
  shown?.end?.();
  shown = view;
  document.body.replaceChildren(view.root);
  view.begin?.();
}

function logIn(error = "") {
  show(new LoginView(session, () => show(new Page(session)), error));
}

async function open() {
  try {
    if (await session.open()) show(new Page(session));
    else logIn();
  } catch (error) {
    logIn(error.message);
  }
}

applyTheme();
session.onEnd = () => logIn("The session has ended.");
// A link that logs in, opened where the page is open, loads nothing anew.
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#token=")) open();
});
await open();
