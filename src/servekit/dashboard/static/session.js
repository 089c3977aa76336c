// The session of this browser: a cookie that scripts do not see, and a key that only pages of this port can read.

const KEY = "servekit-page-key";

export class CallError extends Error {
  constructor(status, told) {
    super(told?.message ?? `the answer is ${status}`);
    this.status = status;
    this.kind = told?.error ?? "";
  }
}

export class Session {
  constructor() {
    this.mayChange = false;
    this.onEnd = () => {};
  }

  get headers() {
    return { "x-servekit-page": localStorage.getItem(KEY) ?? "" };
  }

  /** Whether there is a session, once the link that led here, if any, has logged in. */
  async open() {
    const token = new URLSearchParams(location.hash.slice(1)).get("token");
    if (token) {
      history.replaceState(null, "", location.pathname);
      await this.logIn(token);
      return true;
    }
    if (!localStorage.getItem(KEY)) return false;
    const told = await this.ask("GET", "/session");
    if (told === null) return false;
    this.mayChange = told.may_change;
    return true;
  }

  async logIn(token) {
    const told = await this.ask("POST", "/login", { token });
    localStorage.setItem(KEY, told.key);
    this.mayChange = told.may_change;
  }

  async logOut() {
    try {
      await this.ask("POST", "/logout", {});
    } finally {
      this.ended();
    }
  }

  ended() {
    localStorage.removeItem(KEY);
    this.onEnd();
  }

  /** The result of an operation. Throws a CallError, and what `fetch` throws. */
  async call(operation, args = {}) {
    try {
      return await this.ask("POST", `/call/${operation}`, args);
    } catch (error) {
      if (error.status === 401) this.ended();
      throw error;
    }
  }

  async ask(method, path, body) {
    const headers = { ...this.headers, "content-type": "application/json" };
    const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), credentials: "same-origin" });
    const told = await answer.json().catch(() => null);
    if (!answer.ok) throw new CallError(answer.status, told);
    return told;
  }
}
