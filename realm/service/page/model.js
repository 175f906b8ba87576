// The model that answers: what it is, and the curves of the trainings it stems from.

import { api } from "./api.js";
import { chart } from "./chart.js";
import { h } from "./dom.js";
import { count, say, when } from "./words.js";

export async function modelView() {
  const model = await api.model();
  return h(
    "div",
    { class: "stack" },
    h("h1", {}, say("model")),
    h("p", {}, say(model.kind === "fine-tuned" ? "modelAnswers" : "modelFills", { k: count(model.k) })),
    h("p", { class: "soft small" }, say("modelEncoder", { encoder: model.encoder })),
    model.trainings.length ? model.trainings.map(trainingPart) : h("p", { class: "card note" }, say("noCurves")),
  );
}

function trainingPart(training) {
  const title = say(training.kind === "fine-tuning" ? "fineTuning" : "preTraining");
  return h(
    "section",
    { class: "stack" },
    h("h2", {}, title),
    h("p", { class: "soft small" }, say("trained", { time: when(training.created), version: training.realm_version })),
    training.curves.length
      ? h("div", { class: "plots" }, training.curves.map(chart))
      : h("p", { class: "soft" }, say("noCurves")),
  );
}
