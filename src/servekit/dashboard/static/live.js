// The stream of what there is: the whole at first, then what has changed. It comes back by itself when it was lost.

const SILENCE_MS = 5000; // The server sends something each second.
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5000;

/** Put changes into a state: `set` has pairs of a path and a value, `gone` has paths. */
export function applyChanges(state, { set, gone }) {
  for (const path of gone) {
    const [object, key] = place(state, path);
    delete object[key];
  }
  for (const [path, value] of set) {
    const [object, key] = place(state, path);
    put(object, key, value);
  }
}

function place(state, path) {
  let object = state;
  for (const key of path.slice(0, -1)) {
    if (!Object.hasOwn(object, key)) put(object, key, {});
    object = object[key];
  }
  return [object, path[path.length - 1]];
}

// Not by assignment: a name may be "__proto__".
function put(object, key, value) {
  Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
}

export class Live {
  /** `onState(state)`, after each event, which catches its own errors: one that comes out of it is a lost stream.
   *  `onLost(text)` while there is no stream, with "" when there is one. */
  constructor(session, onState, onLost) {
    this.session = session;
    this.onState = onState;
    this.onLost = onLost;
    this.state = null;
    this.pauseMs = FIRST_PAUSE_MS;
    this.closed = false;
    this.wake = () => {};
    this.online = () => this.wake();
    addEventListener("online", this.online);
  }

  close() {
    this.closed = true;
    removeEventListener("online", this.online);
    this.abort?.abort();
    this.wake();
  }

  async run() {
    while (!this.closed) {
      let why = "the connection was lost";
      try {
        why = await this.stream();
      } catch (error) {
        if (error.status) why = error.message;
      }
      if (this.closed) return;
      this.onLost(why);
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, this.pauseMs);
      });
      this.pauseMs = Math.min(this.pauseMs * 1.5, LONGEST_PAUSE_MS);
    }
  }

  /** Read the stream to its end; returns why it has ended. */
  async stream() {
    this.abort = new AbortController();
    let watch = setTimeout(() => this.abort.abort(), SILENCE_MS);
    try {
      const answer = await fetch("/live", { headers: this.session.headers, signal: this.abort.signal, cache: "no-store" });
      if (answer.status === 401) {
        this.close();
        this.session.ended();
        return "";
      }
      if (!answer.ok) return (await answer.json()).message;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return "the stream has ended";
        clearTimeout(watch);
        watch = setTimeout(() => this.abort.abort(), SILENCE_MS);
        const events = (text + value).split("\n\n");
        text = events.pop();
        for (const event of events) this.take(event);
      }
    } finally {
      clearTimeout(watch);
      this.abort.abort(); // Whatever has ended the reading: the server must not go on with a stream that nobody reads.
    }
  }

  take(event) {
    const [, kind, data] = /^event: (\w+)\ndata: ([^\n]*)$/.exec(event);
    if (kind === "whole") this.state = JSON.parse(data);
    else applyChanges(this.state, JSON.parse(data));
    this.pauseMs = FIRST_PAUSE_MS;
    this.onLost("");
    this.onState(this.state);
  }
}
