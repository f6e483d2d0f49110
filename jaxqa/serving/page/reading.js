// All that is known about one image.

import { bytes, h, plain, score as written } from "./dom.js";
import { rationale } from "./rationale.js";
import { scale } from "./scale.js";

const MODES = {
  think: "Read from the answer after its reasons",
  fast: "Read from an answer without reasons",
  expected: "Expected over all scores that the answer may have",
  mean: "Mean of several answers",
};

/** What stands in the reading of `item`; `actions` are buttons. */
export function reading(item, actions) {
  const picture = preview(item);
  const size = h("span", { class: "size" });
  picture.addEventListener("load", () => {
    size.textContent = `${picture.naturalWidth} × ${picture.naturalHeight} pixels, `;
  });
  return [
    h("button", { type: "button", class: "back", onclick: actions.back }, "Back to the list"),
    h("div", { class: "frame" }, picture),
    h(
      "div",
      { class: "facts" },
      h("h2", { id: "reading-name" }, item.name),
      h("p", { class: "note" }, size, bytes(item.file.size)),
      figure(item),
    ),
    h("div", { class: "grounds" }, item.state === "scored" ? grounds(item.result) : answer(item)),
    h(
      "p",
      { class: "reading-actions" },
      item.state === "refused" ? null : ["a", "b"].map((slot) => compareAs(slot, actions)),
      h("button", { type: "button", onclick: actions.remove }, "Remove"),
    ),
  ];
}

/** The picture; formats that browsers do not draw are said to be so. */
export function preview(item) {
  const picture = h("img", { src: item.url, alt: "", decoding: "async" });
  picture.addEventListener("error", () => {
    picture.replaceWith(h("p", { class: "no-picture" }, "Browsers do not show this picture"));
  });
  return picture;
}

function compareAs(slot, actions) {
  const words = `Compare as ${slot.toUpperCase()}`;
  return h("button", { type: "button", onclick: () => actions.use(slot) }, words);
}

/** The score, or why there is none. */
function figure({ state, result, error }) {
  if (state === "waiting" || state === "sent") {
    return h("p", { class: "pending" }, state === "sent" ? "Being scored" : "Waiting");
  }
  if (state !== "scored") return h("p", { class: "no-score" }, error);
  const { score, normalised, range, task, mode } = result;
  return [
    h("p", { class: "figure" }, h("strong", {}, written(score))),
    h("p", { class: "of" }, `${task}, ${range.map(plain).join(" to ")}`),
    h("p", { class: "note" }, `${normalised.toFixed(3)} from 0 to 1. ${MODES[mode]}.`),
  ];
}

function grounds(result) {
  const { rationale: reasons } = result;
  const words = rationale(result);
  return [
    scale(result),
    words ? h("h3", {}, reasons ? "Reasons" : "Answer") : null,
    words,
    result.text !== reasons ? answer({ result }) : null,
  ];
}

function answer({ result }) {
  if (!result?.text) return null;
  const text = h("pre", { tabindex: 0, "aria-label": "Whole answer" }, result.text);
  return h("details", {}, h("summary", {}, "Whole answer"), text);
}
