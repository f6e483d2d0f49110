// The reasons, each word shaded by how unsure the model was of it.

import { h } from "./dom.js";

/** Entropies, in nats, from which on a word has the next darker shade. */
export const SHADES = [0.05, 0.3, 0.7, 1.2, 2];
const TOP = 0.2; // share of the words that are underlined

/** The shade of an entropy, from 0 to SHADES.length. */
export function shade(entropy) {
  return SHADES.filter((bound) => entropy >= bound).length;
}

/** Pieces of `tokens` that write `rationale`; all of them where there is none. */
export function reasons(tokens, rationale) {
  const whole = tokens.map((token) => token.text).join("");
  const begin = rationale ? whole.indexOf(rationale) : -1;
  if (begin < 0) return tokens;
  const end = begin + rationale.length;
  let place = 0;
  return tokens.flatMap((token) => {
    const from = Math.max(begin - place, 0);
    const to = Math.min(end - place, token.text.length);
    place += token.text.length;
    return from < to ? [{ ...token, text: token.text.slice(from, to) }] : [];
  });
}

/** The entropy from which on a piece is among the most uncertain. */
export function threshold(pieces) {
  const sorted = pieces.map((piece) => piece.entropy).sort((a, b) => b - a);
  const last = sorted[Math.max(0, Math.ceil(TOP * sorted.length) - 1)];
  return Math.max(last ?? 0, SHADES[0]);
}

/** The reasons as text that can be walked with the arrow keys, a legend, and what is under it. */
export function rationale({ tokens, rationale: text, text: whole }) {
  if (!tokens?.length) return whole ? h("p", { class: "words" }, text || whole) : null;
  const pieces = reasons(tokens, text);
  const bound = threshold(pieces);
  const spans = pieces.map(({ text: piece, entropy }) =>
    h("span", { class: `e${shade(entropy)}${entropy >= bound ? " is-top" : ""}` }, piece.trim()),
  );
  const readout = h("output", { class: "readout", "aria-live": "polite" }, HINT);
  const words = h(
    "p",
    {
      class: "words",
      tabindex: 0,
      role: "group",
      "aria-label": text ? "The model's reasons" : "The model's answer",
      "aria-describedby": "words-hint",
    },
    // Blanks are not shaded: they belong to the word for the model, not for the eye.
    pieces.flatMap(({ text: piece }, place) => [...around(piece, spans[place])]),
  );
  walk(words, spans, pieces, readout);
  const hint = h("span", { id: "words-hint", class: "visually-hidden" }, "Arrow keys go from word to word.");
  return h("div", { class: "rationale" }, words, hint, h("div", { class: "under" }, legend(), readout));
}

function around(piece, span) {
  const begin = piece.length - piece.trimStart().length;
  return [piece.slice(0, begin), span, piece.slice(begin + piece.trim().length)];
}

const HINT = "Point at a word";

function walk(words, spans, pieces, readout) {
  let current = -1;
  const show = (place) => {
    spans[current]?.classList.remove("is-current");
    current = place;
    spans[place]?.classList.add("is-current");
    const piece = pieces[place];
    readout.textContent = piece
      ? `“${piece.text.trim() || "space"}”: ${piece.entropy.toFixed(2)} nats`
      : HINT;
  };
  words.addEventListener("pointerover", (event) => show(spans.indexOf(event.target)));
  words.addEventListener("pointerleave", () => show(-1));
  words.addEventListener("blur", () => show(-1));
  words.addEventListener("keydown", (event) => {
    const last = spans.length - 1;
    const to = {
      ArrowRight: Math.min(last, current + 1),
      ArrowLeft: Math.max(0, current - 1),
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    show(to);
  });
}

function legend() {
  const steps = ["0", ...SHADES].map((bound, place) =>
    h("span", { class: `step e${place}`, title: `from ${bound} nats` }),
  );
  return h(
    "p",
    { class: "legend" },
    "sure ",
    h("span", { class: "steps", "aria-hidden": "true" }, steps),
    ` unsure (${SHADES.at(-1)} nats and more). Underlined: the least sure fifth.`,
  );
}
