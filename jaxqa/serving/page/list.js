// The table of images: in any order, one of them chosen.

import { $, h, score as written } from "./dom.js";

const STATES = { waiting: "waiting", sent: "scoring" };
const KEYS = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };

export class List {
  /** @param chosen called with the item that was chosen, and whether by pointer or Enter. */
  constructor(chosen) {
    this.chosen = chosen;
    this.items = [];
    this.current = null;
    this.order = { by: null, down: false };
    for (const button of document.querySelectorAll("[data-sort]")) {
      button.addEventListener("click", () => this.#turn(button.dataset.sort));
    }
    $("rows").addEventListener("keydown", (event) => this.#move(event));
  }

  add(items) {
    for (const item of items) {
      item.place = this.items.length;
      item.row = this.#row(item);
      this.items.push(item);
    }
    this.update(items);
    this.sort();
  }

  remove(item) {
    this.items = this.items.filter((other) => other !== item);
    item.row.remove();
    if (this.current === item) this.current = null;
  }

  clear() {
    for (const item of [...this.items]) this.remove(item);
  }

  /** Show what has changed. */
  update(items) {
    for (const item of items) {
      const { row, state, error } = item;
      if (!row) continue;
      row.className = `is-${state}`;
      row.querySelector(".number").replaceChildren(...number(item));
      row.querySelector(".error").textContent = error;
    }
    if (this.order.by === "score") this.#soon();
  }

  choose(item) {
    this.current?.row.querySelector("button").setAttribute("tabindex", "-1");
    this.current?.row.querySelector("button").removeAttribute("aria-current");
    this.current = item;
    item.row.querySelector("button").setAttribute("tabindex", "0");
    item.row.querySelector("button").setAttribute("aria-current", "true");
  }

  /** Put the rows in order; those without a score are last. */
  sort() {
    const { by, down } = this.order;
    const sign = down ? -1 : 1;
    this.items.sort((a, b) => {
      if (by === "name") return sign * a.name.localeCompare(b.name, undefined, { numeric: true });
      if (by !== "score") return a.place - b.place;
      const [x, y] = [a.result?.score ?? null, b.result?.score ?? null];
      if (x === null || y === null) return (x === null) - (y === null) || a.place - b.place;
      return sign * (x - y) || a.place - b.place;
    });
    const focused = document.activeElement;
    $("rows").replaceChildren(...this.items.map((item) => item.row));
    if ($("rows").contains(focused)) focused.focus({ preventScroll: true });
  }

  #soon() {
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.sort();
    }, 400);
  }

  #turn(by) {
    const isSame = this.order.by === by;
    // The best first, and names from A on.
    this.order = { by, down: isSame ? !this.order.down : by === "score" };
    for (const button of document.querySelectorAll("[data-sort]")) {
      const isThis = button.dataset.sort === by;
      const word = this.order.down ? "descending" : "ascending";
      button.closest("th").setAttribute("aria-sort", isThis ? word : "none");
    }
    this.sort();
  }

  #move(event) {
    const step = KEYS[event.key];
    if (step === undefined || this.items.length === 0) return;
    event.preventDefault();
    const from = Math.max(0, this.items.indexOf(this.current));
    const to = Math.min(this.items.length - 1, Math.max(0, from + step));
    this.choose(this.items[to]);
    this.items[to].row.querySelector("button").focus();
    this.chosen(this.items[to], false);
  }

  #row(item) {
    const button = h("button", { type: "button", tabindex: "-1", title: item.name }, item.name);
    button.addEventListener("click", () => {
      this.choose(item);
      this.chosen(item, true);
    });
    const thumbnail = h("img", { src: item.url, alt: "", loading: "lazy", decoding: "async" });
    thumbnail.addEventListener("error", () => thumbnail.remove());
    return h(
      "tr",
      {},
      h("td", { class: "picture" }, h("span", { class: "thumbnail" }, thumbnail)),
      h("th", { scope: "row", class: "name" }, button, h("span", { class: "error" })),
      h("td", { class: "number" }),
    );
  }
}

function number({ state, result }) {
  if (state !== "scored") {
    const words = STATES[state] ?? "none";
    return [h("span", { class: "state" }, words)];
  }
  const height = 100 * result.normalised;
  const bar = h("span", { class: "bar-track", "aria-hidden": "true" }, h("span", { class: "bar-fill" }));
  bar.firstChild.style.inlineSize = `${height}%`;
  return [h("span", { class: "value" }, written(result.score)), bar];
}
