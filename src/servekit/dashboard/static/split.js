// The split of an endpoint's traffic, as a bar whose borders can be moved by pointer and by keyboard.

import { h, setAttribute, setText } from "./dom.js";
import { percent } from "./format.js";

const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };

/** `parts`: pairs of a name and a share, which sum to 1. */
export class SplitBar {
  /** `onMove(parts)`: the user has moved a border; `colorOf(name)`: the class of a version's colour. */
  constructor({ label, onMove, colorOf, mayChange }) {
    this.onMove = onMove;
    this.colorOf = colorOf;
    this.mayChange = mayChange;
    this.parts = [];
    this.handles = [];
    this.dragged = false;
    this.root = h("div", { class: "split", role: "group", "aria-label": label });
  }

  update(parts) {
    if (this.dragged) return;
    const names = parts.map(([name]) => name);
    const known = this.parts.map(([name]) => name);
    this.parts = parts;
    if (names.length !== known.length || names.some((name, at) => name !== known[at])) this.build(names);
    this.draw();
  }

  build(names) {
    this.segments = names.map((name) => h("div", { class: `segment ${this.colorOf(name)}` }, h("span", {})));
    this.handles = this.mayChange ? names.slice(1).map((_, at) => this.handle(at)) : [];
    this.root.replaceChildren(...this.segments, ...this.handles);
  }

  /** The border behind part `at`. */
  handle(at) {
    const [left, right] = [this.parts[at][0], this.parts[at + 1][0]];
    const handle = h("div", {
      class: "handle", role: "slider", tabindex: "0", "aria-orientation": "horizontal",
      "aria-label": `Traffic of ${left}, against ${right}`,
      on: {
        keydown: (event) => this.pressed(at, event),
        pointerdown: (event) => {
          handle.setPointerCapture(event.pointerId);
          this.dragged = true;
          handle.focus();
          event.preventDefault();
        },
        pointermove: (event) => {
          if (handle.hasPointerCapture(event.pointerId)) this.move(at, this.pointed(event));
        },
        lostpointercapture: () => {
          this.dragged = false;
        },
      },
    });
    return handle;
  }

  pointed(event) {
    const box = this.root.getBoundingClientRect();
    return ((event.clientX - box.left) / box.width) * 100;
  }

  pressed(at, event) {
    const [low, high] = this.range(at);
    const border = this.border(at);
    const wanted = event.key === "Home" ? low : event.key === "End" ? high : border + (STEPS[event.key] ?? NaN);
    if (Number.isNaN(wanted)) return;
    event.preventDefault();
    this.move(at, wanted);
  }

  /** Where the border behind part `at` is, in per cent of the whole. */
  border(at) {
    return this.parts.slice(0, at + 1).reduce((sum, [, share]) => sum + share * 100, 0);
  }

  /** Between which borders it can be. */
  range(at) {
    return [at === 0 ? 0 : this.border(at - 1), this.border(at + 1)];
  }

  move(at, wanted) {
    const [low, high] = this.range(at);
    const border = Math.min(high, Math.max(low, Math.round(wanted)));
    if (border === this.border(at)) return;
    const [left, right] = [this.parts[at][0], this.parts[at + 1][0]];
    this.parts = this.parts.map((part, index) => {
      if (index === at) return [left, rounded(border - low)];
      return index === at + 1 ? [right, rounded(high - border)] : part;
    });
    this.draw();
    this.onMove(this.parts);
  }

  draw() {
    this.parts.forEach(([name, share], at) => {
      this.segments[at].style.flexGrow = share;
      setText(this.segments[at].firstChild, `${name} ${percent(share)}`);
    });
    this.handles.forEach((handle, at) => {
      const [low, high] = this.range(at);
      const [left, right] = [this.parts[at], this.parts[at + 1]];
      handle.style.left = `${this.border(at)}%`;
      setAttribute(handle, "aria-valuemin", 0);
      setAttribute(handle, "aria-valuemax", Math.round(high - low));
      setAttribute(handle, "aria-valuenow", Math.round(this.border(at) - low));
      setAttribute(handle, "aria-valuetext", `${left[0]} ${percent(left[1])}, ${right[0]} ${percent(right[1])}`);
    });
  }
}

function rounded(percents) {
  return Number((percents / 100).toFixed(6));
}
