// Scores as a table for other programs.

const COLUMNS = ["name", "score", "normalised", "low", "high", "task", "mode", "rationale", "error"];

/** The text of a CSV file (RFC 4180), one row for each item. */
export function csv(items) {
  const rows = items.map(({ name, result, error }) => {
    const { score, normalised, range, task, mode, rationale } = result ?? {};
    return [name, score, normalised, range?.[0], range?.[1], task, mode, rationale, error];
  });
  return [COLUMNS, ...rows].map((row) => `${row.map(field).join(",")}\r\n`).join("");
}

function field(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  // Spreadsheets run what begins so; a mark before it makes it text.
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Let the browser save a text as a file. */
export function download(text, name, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
