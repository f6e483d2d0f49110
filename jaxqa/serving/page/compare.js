// Two images side by side: which one is better, asked in both orders.

import { $, h, percent, problem, score as written } from "./dom.js";
import { onDrop, refusal } from "./files.js";
import { words } from "./queue.js";
import { preview } from "./reading.js";

const SLOTS = {
  a: ["A", "First image"],
  b: ["B", "Second image"],
  reference: ["Reference", "What both were made from, if you have it"],
};

export class Compare {
  constructor(client, models, question) {
    Object.assign(this, { client, models, question });
    this.images = {};
    this.stopper = new AbortController();
    const names = models.compares_with_reference ? ["a", "b", "reference"] : ["a", "b"];
    this.slots = Object.fromEntries(names.map((name) => [name, this.#slot(name)]));
    $("slots").append(...Object.values(this.slots));
    $("slots").classList.toggle("has-reference", names.length === 3);
    this.#tell(h("p", { class: "pending" }, "Choose two images."));
  }

  /** Put a file into the first free slot, or into the one named. */
  async put(file, name) {
    const place = name ?? Object.keys(this.slots).find((slot) => !this.images[slot]) ?? "b";
    const error = await refusal(file, this.models.limits);
    if (error) {
      problem(`${file.name}: ${error}`);
      return;
    }
    problem();
    this.#release(place);
    this.images[place] = { file, name: file.name || "pasted image", url: URL.createObjectURL(file) };
    this.#fill(place);
    this.ask();
  }

  /** Ask again, since something has changed. */
  async ask() {
    this.stopper.abort();
    if (!this.images.a || !this.images.b) {
      this.#tell(h("p", { class: "pending" }, "Choose two images."));
      return;
    }
    const asked = this.question.asked;
    if (!asked) {
      this.#tell(h("p", { class: "pending" }, "Write the text that the images should show."));
      return;
    }
    this.stopper = new AbortController();
    const { signal } = this.stopper;
    const files = Object.entries(this.images).map(([name, image]) => [name, image.file]);
    this.#tell(h("p", { class: "pending" }, "Comparing"));
    try {
      const found = await this.client.compare(Object.fromEntries(files), asked, signal);
      if (!signal.aborted) this.#tell(...verdict(found));
    } catch (error) {
      if (!signal.aborted) this.#tell(h("p", { class: "no-score" }, words(error)));
    }
  }

  #tell(...content) {
    $("verdict").replaceChildren(...content.filter(Boolean));
  }

  #slot(name) {
    const [letter, purpose] = SLOTS[name];
    const id = `slot-${name}`;
    const input = h("input", { id, class: "hidden-input", type: "file", accept: "image/*" });
    input.addEventListener("change", () => {
      if (input.files.length) this.put(input.files[0], name);
      input.value = "";
    });
    const remove = h(
      "button",
      { type: "button", class: "remove", hidden: true, "aria-label": `Remove ${letter}` },
      "Remove",
    );
    remove.addEventListener("click", () => {
      this.#release(name);
      this.#fill(name);
      input.focus();
      this.ask();
    });
    const slot = h(
      "div",
      { class: "slot", role: "group", "aria-label": letter, "data-slot": name },
      h("p", { class: "letter" }, letter, " ", h("span", { class: "note" }, purpose)),
      h("div", { class: "frame" }),
      h(
        "p",
        { class: "ways" },
        input,
        h("label", { for: id, class: "button" }, "Choose ", h("span", { class: "visually-hidden" }, letter)),
        remove,
      ),
    );
    onDrop(slot, ([file]) => file && this.put(file, name));
    return slot;
  }

  #fill(name) {
    const image = this.images[name];
    const slot = this.slots[name];
    slot.querySelector(".frame").replaceChildren(...(image ? [preview(image)] : []));
    slot.querySelector(".letter .note").textContent = image ? image.name : SLOTS[name][1];
    slot.querySelector(".remove").hidden = !image;
  }

  #release(name) {
    if (this.images[name]) URL.revokeObjectURL(this.images[name].url);
    delete this.images[name];
  }
}

/** What a comparison came to. */
function verdict(found) {
  if (found.error) return [h("p", { class: "no-score" }, words(new Error(found.error)))];
  const headline = {
    "Image A": "A is better",
    "Image B": "B is better",
    Similar: "No difference",
  }[found.choice];
  const isShown = found.method === "prompt";
  return [
    h("h2", { class: "headline" }, headline),
    isShown || found.preference === 0.5 ? balance(found.preference) : null,
    isShown ? orders(found) : apart(found),
    ...found.rationales.map((text, place) => reason(text, isShown, place)),
  ];
}

function balance(preference) {
  const track = h("div", { class: "balance", "aria-hidden": "true" }, h("span", {}));
  track.firstChild.style.insetInlineStart = `${100 * (1 - preference)}%`;
  const words = `${percent(preference)} for A, ${percent(1 - preference)} for B`;
  return h("div", { class: "balance-row" }, h("span", { "aria-hidden": "true" }, "A"), track,
    h("span", { "aria-hidden": "true" }, "B"), h("p", {}, words));
}

function orders({ orders: shares, consistent }) {
  const rows = shares.map((share, place) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, `${"AB"[place]} shown first`),
      h("td", {}, `${percent(share)} for A`),
      h("td", {}, `${percent(1 - share)} for B`),
    ),
  );
  const agreement = consistent
    ? "Both orders agree."
    : "The orders disagree: the position of an image has swayed the model.";
  return h(
    "div",
    {},
    h("p", { class: consistent ? "agreement" : "agreement is-split" }, agreement),
    h(
      "table",
      { class: "plain" },
      h("caption", { class: "visually-hidden" }, "Answers in each order"),
      h("tbody", {}, rows),
    ),
  );
}

function apart({ scores }) {
  return h(
    "div",
    {},
    h(
      "dl",
      { class: "pair" },
      scores.map((score, place) =>
        h("div", {}, h("dt", {}, "AB"[place]), h("dd", {}, written(score))),
      ),
    ),
    h(
      "p",
      { class: "note" },
      "Each image was scored on its own, in the same way, so both orders agree.",
    ),
  );
}

function reason(text, isShown, place) {
  if (!text) return null;
  // The model names them by their order: what it saw first is its "Image A".
  const shown = ["Reasons, A shown first", "Reasons, B shown first (its “Image A” is B)"];
  const title = isShown ? shown[place] : `Reasons for ${"AB"[place]}`;
  return h("div", { class: "why" }, h("h3", {}, title), h("p", { class: "words" }, text));
}
