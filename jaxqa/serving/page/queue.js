// Many images through the server: a few requests at a time, each with a few images.

import { sentence } from "./dom.js";
import { condense } from "./scale.js";

const IMAGES = 8; // of a request: a block of the server
const REQUESTS = 3; // at a time
const ROOM = 2048; // bytes of a form beside its files

/**
 * States of an item: waiting, sent, scored, failed (with `error`, and `again` if another try may
 * help), refused (failed before it was sent).
 */
export class Queue {
  /**
   * @param client asks the server.
   * @param limits of the server.
   * @param changed called with the items that have changed.
   */
  constructor(client, limits, changed) {
    Object.assign(this, { client, limits, changed });
    this.items = [];
    this.running = 0;
    this.stopper = new AbortController();
    this.question = null;
  }

  get counts() {
    const found = { waiting: 0, sent: 0, scored: 0, failed: 0, refused: 0 };
    for (const item of this.items) found[item.state] += 1;
    return found;
  }

  get isBusy() {
    const { waiting, sent } = this.counts;
    return Boolean(this.question) && waiting + sent > 0;
  }

  add(items) {
    this.items.push(...items);
    this.#fill();
  }

  remove(item) {
    this.items = this.items.filter((other) => other !== item);
  }

  clear() {
    this.stop();
    this.items = [];
  }

  /** Ask this about all images, those that have an answer included; null asks nothing. */
  ask(question) {
    this.stop();
    this.question = question;
    const again = this.items.filter((item) => item.state !== "refused");
    for (const item of again) Object.assign(item, { state: "waiting", result: null, error: "" });
    this.changed(again);
    this.#fill();
  }

  /** Leave what has no answer yet as it is. */
  stop() {
    this.stopper.abort();
    this.stopper = new AbortController();
    this.running = 0;
    const left = this.items.filter((item) => ["waiting", "sent"].includes(item.state));
    for (const item of left) Object.assign(item, { state: "failed", error: "Stopped.", again: true });
    this.changed(left);
  }

  /** Try those again that have no score and might get one. */
  retry() {
    const again = this.items.filter((item) => item.state === "failed" && item.again);
    for (const item of again) Object.assign(item, { state: "waiting", error: "" });
    this.changed(again);
    this.#fill();
  }

  #fill() {
    while (this.question && this.running < REQUESTS) {
      const some = this.#next();
      if (some.length === 0) return;
      this.running += 1;
      for (const item of some) item.state = "sent";
      this.changed(some);
      this.#send(some, this.stopper.signal);
    }
  }

  /** Waiting images that fit into a request. */
  #next() {
    const found = [];
    let size = ROOM;
    for (const item of this.items) {
      if (item.state !== "waiting") continue;
      size += item.file.size + ROOM;
      const fits = found.length < Math.min(IMAGES, this.limits.images);
      if (!fits || (found.length > 0 && size > this.limits.body_bytes)) break;
      found.push(item);
    }
    return found;
  }

  async #send(items, signal) {
    const { question } = this;
    try {
      const files = items.map((item) => item.file);
      const reply = await this.client.score(files, question, signal);
      if (signal.aborted) return;
      items.forEach((item, place) => settle(item, reply, place));
    } catch (error) {
      if (signal.aborted) return;
      const again = error.status !== 400;
      for (const item of items) Object.assign(item, { state: "failed", error: words(error), again });
      this.failed?.(error);
    }
    this.running -= 1;
    this.changed(items.filter((item) => this.items.includes(item)));
    this.#fill();
  }
}

function settle(item, reply, place) {
  const score = reply.scores[place];
  item.result = {
    score,
    normalised: reply.normalised[place],
    range: reply.range,
    task: reply.task,
    mode: reply.mode,
    ...reply.details[place],
  };
  const { distribution, range } = item.result;
  if (distribution) item.result.distribution = condense(distribution, range);
  item.again = false;
  item.state = score === null ? "failed" : "scored";
  item.error = score === null ? words(new Error(reply.errors[place])) : "";
}

/** An error for people: they know an image by its name, not by its place in a request. */
export function words(error) {
  return sentence(error.message.replace(/^image( \d+| [AB])?: /, ""));
}
