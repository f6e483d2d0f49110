// A score on its scale, drawn like a ruler; above it the distribution or the samples, if any.

import { h, percent, plain, score as written, svg } from "./dom.js";

const BINS = 40;
const NOTHING = 0.0005; // probability that is not shown
const RULER = 34; // pixels: ticks and numbers
const PLOT = 112; // pixels: bars
const HEADROOM = 14;

/** What is kept of a distribution: thousands of images may have one, of thousands of values. */
export function condense(distribution, range) {
  return {
    bins: histogram(distribution, range),
    interval: interval(distribution, 0.9),
    mass: distribution.mass,
  };
}

/** Probabilities in equal steps of the range; the last step holds its end. */
function histogram({ values, probabilities }, [low, high]) {
  const bins = new Array(BINS).fill(0);
  values.forEach((value, place) => {
    // The nudge: 1.3 is a little less than 1 + 3 * 0.1 to a computer.
    const bin = Math.floor(((value - low) / (high - low)) * BINS + 1e-6);
    bins[Math.max(0, Math.min(BINS - 1, bin))] += probabilities[place];
  });
  return bins;
}

/** What the drawing adds to the score, in words. */
function summary({ distribution, samples, spread }) {
  const parts = [];
  if (distribution) {
    const [from, to] = distribution.interval;
    parts.push(`Nine tenths of the probability lie between ${plain(from)} and ${plain(to)}.`);
    parts.push(`Standard deviation ${written(spread)}.`);
    parts.push(`Numbers that are allowed hold ${percent(distribution.mass)} of all probability.`);
  } else if (samples?.length > 1) {
    const known = samples.filter((sample) => sample !== null);
    parts.push(`The mean of ${known.length} answers: ${known.map(written).join(", ")}.`);
    if (spread !== undefined && spread !== null) parts.push(`Standard deviation ${written(spread)}.`);
  }
  return parts.join(" ");
}

/** The shortest run of values from one tail to the other that leaves equal shares outside. */
function interval({ values, probabilities }, share) {
  const edge = (order) => {
    let left = (1 - share) / 2;
    for (const place of order) {
      left -= probabilities[place];
      if (left < 0) return values[place];
    }
    return values[order.at(-1)];
  };
  const places = values.map((_, place) => place);
  return [edge(places), edge([...places].reverse())];
}

/** The figure: a drawing with its words, and the distribution as a table. */
export function scale(result) {
  const { range, distribution, samples } = result;
  const bins = distribution?.bins;
  const plot = bins ? PLOT : samples?.length > 1 ? 26 : HEADROOM;
  const words = summary(result);
  const whole = `${written(result.score)} on a scale of ${range.map(plain).join(" to ")}. ${words}`;
  const picture = svg(
    "svg",
    { class: "scale", role: "img", "aria-label": whole.trim(), height: plot + RULER },
    bins ? bars(bins, plot) : dots(samples ?? [], range, plot),
    ticks(range, plot),
    marker(result, plot),
  );
  const caption = words ? h("figcaption", {}, words) : null;
  return h("figure", { class: "scale-figure" }, picture, caption, bins ? table(bins, range) : null);
}

function across(value, [low, high]) {
  return `${(100 * (value - low)) / (high - low)}%`;
}

function bars(bins, plot) {
  const most = Math.max(...bins);
  return bins.map((share, bin) => {
    if (share < NOTHING) return null;
    const height = Math.max(1, ((plot - HEADROOM) * share) / most);
    return svg("rect", {
      class: "bar",
      x: `${(100 * (bin + 0.12)) / BINS}%`,
      width: `${76 / BINS}%`,
      y: plot - height,
      height,
    });
  });
}

function dots(samples, range, plot) {
  return samples
    .filter((sample) => sample !== null)
    .map((sample) =>
      svg("circle", { class: "dot", cx: across(sample, range), cy: plot - 8, r: 4 }),
    );
}

/** Numbers at round steps, and finer lines between them. */
function ticks([low, high], plot) {
  const step = roundStep((high - low) / 5);
  const fine = step / 10;
  const found = [svg("line", { class: "axis", x1: 0, x2: "100%", y1: plot, y2: plot })];
  for (let count = 0; low + count * fine <= high + fine / 1e3; count += 1) {
    const value = low + count * fine;
    const [isNumber, isHalf] = [count % 10 === 0, count % 5 === 0];
    const length = isNumber ? 11 : isHalf ? 8 : 4;
    const x = across(value, [low, high]);
    found.push(svg("line", { class: "tick", x1: x, x2: x, y1: plot, y2: plot + length }));
    if (isNumber) found.push(svg("text", { x, y: plot + 27 }, plain(value)));
  }
  return found;
}

function roundStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999);
}

function marker({ score, range }, plot) {
  const x = across(score, range);
  return [
    svg("line", { class: "marker", x1: x, x2: x, y1: 2, y2: plot + 12 }),
    svg("circle", { class: "marker-head", cx: x, cy: 4, r: 4 }),
  ];
}

function table(bins, [low, high]) {
  const step = (high - low) / BINS;
  const rows = bins
    .map((share, bin) => [low + bin * step, low + (bin + 1) * step, share])
    .filter(([, , share]) => share >= NOTHING)
    .map(([from, to, share]) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, `${plain(from)} to ${plain(to)}`),
        h("td", {}, percent(share)),
      ),
    );
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, "Score"),
    h("th", { scope: "col" }, "Probability"),
  );
  return h(
    "details",
    {},
    h("summary", {}, "Distribution as a table"),
    h("table", { class: "plain" }, h("thead", {}, head), h("tbody", {}, rows)),
  );
}
