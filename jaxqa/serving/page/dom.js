// Small helpers: elements without HTML strings, numbers as people read them.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An element; `attributes` may hold `on...` listeners; null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for pictures. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  const wanted = children.flat().filter((child) => child !== null && child !== undefined);
  element.append(...wanted);
  return element;
}

/** Tell screen readers; what is said twice is read twice. */
export function say(text) {
  const place = $("say");
  place.textContent = "";
  requestAnimationFrame(() => (place.textContent = text));
}

/** Show what went wrong, or nothing. */
export function problem(text = "") {
  $("problem").textContent = text;
}

export function score(value) {
  return value.toFixed(2);
}

/** A bound of a range: as few digits as it needs. */
export function plain(value) {
  return String(Number(value.toFixed(2)));
}

export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "under 0.1 %";
  return `${Number(value.toFixed(1))} %`;
}

export function bytes(count) {
  if (count < 1024) return `${count} bytes`;
  if (count < 1024 ** 2) return `${Math.round(count / 1024)} kB`;
  return `${(count / 1024 ** 2).toFixed(count < 10 * 1024 ** 2 ? 1 : 0)} MB`;
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

export function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
