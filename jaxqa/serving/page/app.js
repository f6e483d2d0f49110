// The page: brings server, question, images and views together.

import { Client } from "./api.js";
import { Compare } from "./compare.js";
import { csv, download } from "./csv.js";
import { $, count, problem, say, sentence } from "./dom.js";
import { filesOf, MOST_FILES, onDrop, refusal } from "./files.js";
import { List } from "./list.js";
import { Question } from "./question.js";
import { Queue } from "./queue.js";
import { reading } from "./reading.js";

const NARROW = matchMedia("(max-width: 60rem)");
const client = new Client();
let question, queue, compare;
const list = new List((item, byHand) => choose(item, byHand));

function start() {
  addEventListener("hashchange", showView);
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    client.key = $("key").value.trim();
    connect();
  });
  showView();
  connect();
}

/** Find out what the model can be asked; the rest of the page needs to know. */
async function connect() {
  try {
    const models = await client.models();
    problem();
    $("key-form").hidden = true;
    if (!queue) open(models);
    else queue.retry();
  } catch (error) {
    const wantsKey = error.status === 401;
    $("key-form").hidden = !wantsKey;
    $("model").textContent = wantsKey ? "locked" : "not connected";
    const isWrong = wantsKey && client.key;
    if (isWrong) problem("The server does not know this key.");
    if (wantsKey) $("key").focus();
    else problem(`${sentence(error.message)} Is it running? Then load this page again.`);
  }
}

function open(models) {
  const name = models.data[0].id;
  $("model").textContent = name;
  document.title = `${name}: jaxqa`;
  question = new Question(models, () => {
    queue.ask(question.asked);
    compare.ask();
    progress();
  });
  queue = new Queue(client, models.limits, changed);
  queue.failed = (error) => error.status === 401 && connect();
  queue.question = question.asked;
  compare = new Compare(client, models, question);
  client.waiting = (seconds) => problem(
    seconds ? `The server is busy. Next try in ${count(seconds, "second")}.` : "",
  );
  $("files").addEventListener("change", () => {
    add([...$("files").files]);
    $("files").value = "";
  });
  onDrop(document.body, take);
  document.addEventListener("paste", async (event) => {
    const files = await filesOf(event.clipboardData);
    if (files.length) take(files);
  });
  $("stop").addEventListener("click", () => queue.stop());
  $("retry").addEventListener("click", () => queue.retry());
  $("csv").addEventListener("click", () => download(csv(list.items), "scores.csv", "text/csv"));
  $("clear").addEventListener("click", clear);
  progress();
}

/** Files that came in any way, for the view that is open. */
async function take(files) {
  if ($("compare").hidden) await add(files);
  else for (const file of files.slice(0, 3)) await compare.put(file);
}

async function add(files) {
  const room = MOST_FILES - list.items.length;
  problem(
    files.length > room
      ? `This page holds ${MOST_FILES} images; for more, use the command: jaxqa score FOLDER.`
      : "",
  );
  const items = await Promise.all(files.slice(0, Math.max(0, room)).map(itemOf));
  if (items.length === 0) return;
  list.add(items);
  queue.add(items);
  const refused = items.filter((item) => item.state === "refused").length;
  say(`${count(items.length, "image")} added${refused ? `, ${refused} cannot be read` : ""}.`);
  if (!list.current) choose(items.find((item) => item.state !== "refused") ?? items[0], false);
  progress();
}

async function itemOf(file) {
  const error = await refusal(file, queue.limits);
  const name = file.name || "pasted image";
  const url = URL.createObjectURL(file);
  return { file, name, url, state: error ? "refused" : "waiting", error: error ?? "", result: null };
}

function changed(items) {
  list.update(items);
  if (items.includes(list.current)) showReading();
  progress();
}

function choose(item, byHand) {
  list.choose(item);
  showReading();
  if (byHand && NARROW.matches) $("reading").focus();
}

function showReading() {
  const item = list.current;
  $("reading").hidden = !item;
  if (!item) return;
  const content = reading(item, {
    back: () => item.row.querySelector("button").focus(),
    use: (slot) => {
      location.hash = "compare";
      compare.put(item.file, slot);
    },
    remove: () => remove(item),
  });
  const hadFocus = $("reading").contains(document.activeElement);
  $("reading").replaceChildren(...content);
  if (hadFocus) $("reading").focus({ preventScroll: true });
}

function remove(item) {
  const place = list.items.indexOf(item);
  list.remove(item);
  queue.remove(item);
  URL.revokeObjectURL(item.url);
  const next = list.items[Math.min(place, list.items.length - 1)];
  if (next) choose(next, false);
  showReading();
  progress();
  (next ? next.row.querySelector("button") : $("files")).focus();
}

function clear() {
  queue.clear();
  for (const item of list.items) URL.revokeObjectURL(item.url);
  list.clear();
  showReading();
  progress();
  $("files").focus();
  say("All images removed.");
}

/** How far it is; said aloud when it is over. */
function progress() {
  const { waiting, sent, scored, failed, refused } = queue.counts;
  const total = list.items.length;
  const without = failed + refused;
  $("score").classList.toggle("is-empty", total === 0);
  $("list").hidden = total === 0;
  $("progress").max = Math.max(1, total);
  $("progress").value = scored + without;
  const parts = [`${scored} of ${count(total, "image")} scored`];
  if (without) parts.push(`${without} without a score`);
  if (!queue.question && waiting) parts.push("write the text that they should show");
  const text = `${parts.join(", ")}.`;
  $("progress-text").textContent = text;
  const isBusy = queue.isBusy;
  $("stop").hidden = !isBusy;
  $("retry").hidden = isBusy || !queue.items.some((item) => item.state === "failed" && item.again);
  if (total && progress.wasBusy && !isBusy) say(text);
  progress.wasBusy = isBusy;
  $("progress").hidden = waiting + sent === 0 || !queue.question;
}

function showView() {
  const isCompare = location.hash === "#compare";
  $("score").hidden = isCompare;
  $("compare").hidden = !isCompare;
  for (const [id, isOpen] of [["to-score", !isCompare], ["to-compare", isCompare]]) {
    if (isOpen) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
}

start();
