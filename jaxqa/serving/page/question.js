// What is asked: the task, how its score is read, and the text where the task needs one.

import { $, h } from "./dom.js";

const TASKS = { quality: "Quality", aesthetics: "Aesthetics", alignment: "Alignment" };
const MODES = {
  think: ["Think", "The number in the most probable answer, after its reasons."],
  fast: ["Fast", "The number in the most probable answer, without reasons."],
  expected: ["Expected", "The expectation over every score that the answer may have, exactly."],
  mean: ["Mean", "The mean of several answers, drawn at random."],
};
const PATIENCE = 350; // milliseconds: arrow keys pass over choices

export class Question {
  /** @param changed called when something else is asked. */
  constructor(models, changed) {
    this.models = models;
    this.changed = changed;
    this.task = models.default.task;
    this.mode = models.default.modes[this.task];
    $("tasks").append(
      ...Object.keys(models.tasks).map((task) => choice("task", task, TASKS[task] ?? task)),
    );
    $("tasks").addEventListener("change", (event) => this.#ask(event.target.value));
    $("modes").addEventListener("change", (event) => this.#read(event.target.value));
    $("prompt").maxLength = models.limits.prompt_length;
    $("prompt").addEventListener("change", () => this.#soon());
    $("question").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#soon();
    });
    this.#show();
    $("question").hidden = false;
  }

  /** What is asked; null while the text that the task needs is missing. */
  get asked() {
    const { task, mode } = this;
    if (!this.needsPrompt) return { task, mode };
    const prompt = $("prompt").value.trim();
    return prompt ? { task, mode, prompt } : null;
  }

  get needsPrompt() {
    return this.models.needs_prompt.includes(this.task);
  }

  #ask(task) {
    this.task = task;
    const modes = this.models.modes[task];
    if (!modes.includes(this.mode)) this.mode = this.models.default.modes[task];
    this.#show();
    this.#soon();
  }

  #read(mode) {
    this.mode = mode;
    $("mode-note").textContent = MODES[mode][1];
    this.#soon();
  }

  #soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.changed(), PATIENCE);
  }

  #show() {
    const modes = this.models.modes[this.task];
    const legend = $("modes").querySelector("legend");
    $("modes").replaceChildren(legend, ...modes.map((mode) => choice("mode", mode, MODES[mode][0])));
    for (const input of $("question").querySelectorAll("input[type=radio]")) {
      input.checked = input.value === (input.name === "task" ? this.task : this.mode);
    }
    $("mode-note").textContent = MODES[this.mode][1];
    $("prompt-field").hidden = !this.needsPrompt;
  }
}

function choice(name, value, words) {
  return h("label", {}, h("input", { type: "radio", name, value }), h("span", {}, words));
}
