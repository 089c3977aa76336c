import { h, setText, show } from "./dom.js";

export class LoginView {
  constructor(session, done, error) {
    this.error = h("p", { class: "error", role: "alert" }, error);
    show(this.error, Boolean(error));
    this.token = h("input", { id: "token", type: "password", autocomplete: "off", required: true, spellcheck: "false" });
    const submit = async (event) => {
      event.preventDefault();
      try {
        await session.logIn(this.token.value);
      } catch (failure) {
        setText(this.error, failure.message);
        show(this.error, true);
        this.token.select();
        return;
      }
      done();
    };
    this.root = h("main", { class: "login" },
      h("h1", {}, "servekit"),
      h("form", { on: { submit } },
        h("label", { for: "token" }, "Token of the instance"),
        this.token,
        this.error,
        h("button", { class: "primary" }, "Log in")),
      h("p", { class: "hint" }, "In a terminal of that machine, ", h("code", {}, "servekit dashboard"),
        " prints a link that logs in. The instance's token may change what is served; the one for reading may only look."));
  }

  begin() {
    this.token.focus();
  }
}
