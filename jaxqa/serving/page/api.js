// What the page asks the server. A busy server says when to come again, and is obeyed.

const BUSY = [429, 503];
const DEFAULT_WAIT = 2; // seconds
const LONGEST_WAIT = 60;
const DETAILS = ["rationale", "text", "distribution", "samples", "spread", "tokens"];

/** What the server refused, in its own words; status 0 where it could not be reached. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Client {
  constructor() {
    this.key = "";
    this.waiting = () => {}; // told how many seconds a busy server asks for, 0 when it is over
  }

  models() {
    return this.#ask("v1/models");
  }

  /** Scores of files; `question` has task, mode, and prompt where the task needs one. */
  score(files, question, signal) {
    const form = formOf(question);
    for (const file of files) form.append("images", file, file.name || "image");
    for (const name of DETAILS) form.append("return", name);
    return this.#ask("v1/score", { method: "POST", body: form, signal });
  }

  /** Which of `images.a` and `images.b` is better, perhaps given `images.reference`. */
  compare(images, question, signal) {
    const form = formOf(question);
    for (const [name, file] of Object.entries(images)) form.append(name, file, name);
    return this.#ask("v1/compare", { method: "POST", body: form, signal });
  }

  async #ask(path, options = {}) {
    for (;;) {
      const reply = await this.#send(path, options);
      if (!BUSY.includes(reply.status)) {
        const content = await reply.json().catch(() => null);
        if (reply.ok && content) return content;
        const message = content?.error?.message ?? `the server answered ${reply.status}`;
        throw new ApiError(message, reply.status);
      }
      const seconds = retryAfter(reply);
      this.waiting(seconds);
      await pause(seconds, options.signal);
      this.waiting(0);
    }
  }

  async #send(path, options) {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    try {
      return await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("the server cannot be reached, or an image has changed on disk", 0);
    }
  }
}

function formOf({ task, mode, prompt }) {
  const form = new FormData();
  form.append("task", task);
  form.append("mode", mode);
  if (prompt) form.append("prompt", prompt);
  return form;
}

function retryAfter(reply) {
  const seconds = Number(reply.headers.get("retry-after"));
  return seconds > 0 ? Math.min(seconds, LONGEST_WAIT) : DEFAULT_WAIT;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
