// Files that people drop, choose or paste; what is no image is told apart before it is sent.

import { bytes } from "./dom.js";

export const MOST_FILES = 5000;

const FORMATS = "JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP, JPEG 2000 or PPM";
const HEIF_BRANDS = ["heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1"];
const HEAD = 64; // bytes that tell a format

/** Why a file cannot be scored; null if the server may have it. */
export async function refusal(file, limits) {
  const most = Math.min(limits.image_bytes, limits.body_bytes - 4096);
  if (file.size === 0) return "The file is empty.";
  if (file.size > most) {
    return `The file has ${bytes(file.size)}; this server takes up to ${bytes(most)}. Make it smaller.`;
  }
  let head;
  try {
    head = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
  } catch {
    return "The file cannot be read.";
  }
  const kind = formatOf(head);
  if (kind === "HEIF") return "HEIC is not read here. Export the photo as JPEG or PNG.";
  if (kind === "SVG") return "SVG is a drawing without pixels. Export it as PNG.";
  return kind ? null : `This is no image that is read here. Use ${FORMATS}.`;
}

/** The format of a file by its first bytes; null for none that is known. */
export function formatOf(head) {
  const text = String.fromCharCode(...head);
  if (text.startsWith("\xff\xd8\xff")) return "JPEG";
  if (text.startsWith("\x89PNG\r\n\x1a\n")) return "PNG";
  if (text.startsWith("GIF8")) return "GIF";
  if (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP") return "WebP";
  if (text.startsWith("BM")) return "BMP";
  if (["II*\0", "MM\0*", "II+\0", "MM\0+"].includes(text.slice(0, 4))) return "TIFF";
  if (/^P[1-6][\s#]/.test(text)) return "PPM";
  if (text.slice(4, 8) === "jP  " || text.startsWith("\xff\x4f\xff\x51")) return "JPEG 2000";
  if (text.slice(4, 8) === "ftyp") return brandOf(text);
  return /^\s*(<\?xml|<svg)/.test(text) ? "SVG" : null;
}

function brandOf(text) {
  const brands = text.slice(8).match(/.{4}/gs) ?? [];
  if (brands.includes("avif") || brands.includes("avis")) return "AVIF";
  return HEIF_BRANDS.includes(brands[0]) ? "HEIF" : null;
}

/** The files of a drop or paste, folders included. */
export async function filesOf(transfer) {
  const entries = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const found = [];
  for (const entry of entries) await gather(entry, found);
  return found;
}

async function gather(entry, found) {
  if (!entry || found.length > MOST_FILES) return;
  if (entry instanceof File) found.push(entry);
  else if (entry.isFile) found.push(await new Promise((done, fail) => entry.file(done, fail)));
  else for (const child of await children(entry)) await gather(child, found);
}

async function children(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (some.length === 0) return found.filter((entry) => !entry.name.startsWith("."));
    found.push(...some);
  }
}

/** Let `target` take files that are dropped on it. */
export function onDrop(target, take) {
  let depth = 0; // enter and leave also come from the children
  const over = (change) => {
    depth = Math.max(0, depth + change);
    target.classList.toggle("is-over", depth > 0);
  };
  target.addEventListener("dragenter", () => over(1));
  target.addEventListener("dragleave", () => over(-1));
  target.addEventListener("dragover", (event) => event.preventDefault());
  target.addEventListener("drop", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    over(-depth);
    take(await filesOf(event.dataTransfer));
  });
}
