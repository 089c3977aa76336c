// Elements, made and kept up to date. Text goes in as text alone: a name may have any characters.

/** An element. `props`: attributes; `on`: listeners by event; null and false leave one out. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else {
      setAttribute(node, name, value);
    }
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function svg(tag, props = {}) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  return node;
}

export function setText(node, text) {
  const shown = String(text);
  if (node.textContent !== shown) node.textContent = shown;
}

/** Set an attribute; null and false take it away, true gives it no value. */
export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

export function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

/** Views of items, one for each key, in the order of the items. A view has `root` and `update(item)`. */
export class Keyed {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.views = new Map();
  }

  update(items, keyOf) {
    const left = new Set(this.views.keys());
    let before = null;
    for (const item of items) {
      const key = keyOf(item);
      left.delete(key);
      let view = this.views.get(key);
      if (!view) {
        view = this.make(item);
        this.views.set(key, view);
      }
      const place = before ? before.nextSibling : this.parent.firstChild;
      if (view.root !== place) this.parent.insertBefore(view.root, place);
      view.update(item);
      before = view.root;
    }
    for (const key of left) {
      const view = this.views.get(key);
      view.end?.();
      view.root.remove();
      this.views.delete(key);
    }
  }
}

/** What an object of JSON has under a name that may be any text. */
export function own(object, key) {
  return object && Object.hasOwn(object, key) ? object[key] : undefined;
}
