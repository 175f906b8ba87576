// Asking: the question, its answer with everything it rests on, and what changed since it was asked before.

import { api } from "./api.js";
import { conflictPart } from "./conflicts.js";
import { bar, field, h, marked, percent, show } from "./dom.js";
import { say } from "./words.js";

/** What was asked last, kept while the page is open, so that an edit and a new answer stand side by side. */
const kept = { question: "", settings: {}, answer: null };
let running = null;

export function askView(app) {
  const question = h("textarea", { rows: 2, required: true, spellcheck: "true" });
  question.value = kept.question;
  const settings = settingsOf(app);
  const place = h("section", { class: "stack", "aria-live": "polite" });

  async function ask() {
    running?.abort();
    running = new AbortController();
    const request = { question: question.value.trim(), ...settings.values() };
    const before = kept.answer && kept.question === request.question ? kept.answer : null;
    show(place, h("p", { class: "soft", role: "status" }, say("asking")));
    try {
      const answer = await api.ask(request, running.signal);
      Object.assign(kept, { question: request.question, settings: settings.raw(), answer });
      await app.refresh();
      show(place, answers(app, answer, before, ask));
    } catch (error) {
      show(place);
      app.fail(error);
    }
  }

  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  const form = h(
    "form",
    {
      class: "card stack",
      onsubmit: (event) => {
        event.preventDefault();
        ask();
      },
    },
    field(say("question"), question, say("questionHint")),
    settings.element,
    h("button", { type: "submit" }, say("ask")),
  );
  if (kept.answer) show(place, answers(app, kept.answer, null, ask));
  return h("div", { class: "stack" }, h("h1", { class: "hidden" }, say("ask")), form, place);
}

/** What passages keep to and how they are read: folded away, because most questions need none of it. */
function settingsOf(app) {
  const k = h("input", { type: "number", min: 1, inputmode: "numeric" });
  const where = h("input", { type: "text", spellcheck: "false", autocapitalize: "off" });
  const asOf = h("input", { type: "text", spellcheck: "false" });
  const aggregate = h(
    "select",
    {},
    h("option", { value: "marginal" }, say("marginal")),
    h("option", { value: "best-span" }, say("bestSpan")),
  );
  const halfLife = h("input", { type: "number", min: 1, inputmode: "numeric" });
  const source = h("input", { type: "text", spellcheck: "false", autocapitalize: "off" });
  const since = h("input", { type: "date" });
  const until = h("input", { type: "date" });
  const perSource = h("input", { type: "number", min: 1, inputmode: "numeric" });
  const inputs = { k, where, as_of: asOf, aggregate, half_life_days: halfLife };
  Object.assign(inputs, { sources: source, since, until, max_per_source: perSource });
  for (const [name, input] of Object.entries(inputs)) if (kept.settings[name]) input.value = kept.settings[name];
  const fields = Object.keys(app.knowledgeBase.columns ?? {}).join(", ");
  const used = Object.entries(kept.settings).some(([name, value]) => value && value !== "marginal" && name);
  const element = h(
    "details",
    { open: used },
    h("summary", {}, say("settings")),
    h(
      "div",
      { class: "grid" },
      field(say("passages"), k),
      field(say("aggregate"), aggregate),
      field(say("where"), where, say("whereHint", { fields })),
      field(say("asOf"), asOf, say("asOfHint")),
      field(say("halfLife"), halfLife, say("halfLifeHint")),
      field(say("onlySource"), source, say("onlySourceHint")),
      field(say("perSource"), perSource, say("perSourceHint")),
      field(say("since"), since, say("datedHint")),
      field(say("until"), until, say("datedHint")),
    ),
  );
  const raw = () => Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value.trim()]));
  const values = () => {
    const given = raw();
    return {
      ...(given.k && { k: Number(given.k) }),
      ...(given.where && { where: given.where }),
      ...(given.as_of && { as_of: /^\d+$/.test(given.as_of) ? Number(given.as_of) : given.as_of }),
      ...(given.half_life_days && { half_life_days: Number(given.half_life_days) }),
      ...(given.sources && { sources: [given.sources] }),
      ...(given.since && { since: given.since }),
      ...(given.until && { until: given.until }),
      ...(given.max_per_source && { max_per_source: Number(given.max_per_source) }),
      aggregate: given.aggregate,
    };
  };
  return { element, raw, values };
}

/** One answer; or the one before and the one after, where the same was asked twice and something differs. */
function answers(app, answer, before, again) {
  const now = app.knowledgeBase.version;
  const stale = answer.knowledge_base_version !== null && answer.knowledge_base_version !== now;
  const parts = [];
  if (stale && !kept.settings.as_of) {
    const values = { before: answer.knowledge_base_version, now };
    parts.push(
      h(
        "p",
        { class: "card note" },
        say("changedSince", values),
        " ",
        h("button", { type: "button", class: "small", onclick: again }, say("again")),
      ),
    );
  }
  if (before && before.knowledge_base_version !== answer.knowledge_base_version) {
    const same = before.text === answer.text && before.abstained === answer.abstained;
    parts.push(
      h("p", { class: `card note ${same ? "" : "changed"}` }, say(same ? "sameAnswer" : "otherAnswer")),
      h(
        "div",
        { class: "sides" },
        h("div", {}, h("h2", {}, say("before")), answerCard(before)),
        h("div", {}, h("h2", {}, say("after")), answerCard(answer)),
      ),
    );
    return parts;
  }
  return [...parts, answerCard(answer)];
}

function answerCard(answer) {
  return h(
    "article",
    { class: "card stack answer-card" },
    h(
      "header",
      {},
      h("p", { class: "soft small" }, answer.question),
      answer.abstained
        ? [h("h2", { class: "answer none" }, say("abstained")), h("p", { class: "soft" }, say("abstainedWhy"))]
        : h("h2", { class: "answer" }, answer.text),
      answer.abstained ? null : bar(say("confidence"), answer.confidence, "posterior"),
      answer.knowledge_base_version === null
        ? null
        : h("p", { class: "soft small" }, say("fromVersion", { version: answer.knowledge_base_version })),
    ),
    answer.conflicts.length ? conflictPart(answer) : null,
    whyPart(answer),
    h("h3", {}, say("evidence")),
    answer.evidence.length
      ? h("ol", { class: "evidence" }, answer.evidence.map(evidenceItem))
      : h("p", { class: "soft" }, say("noEvidence")),
  );
}

function whyPart(answer) {
  const supporting = answer.evidence.filter((one) => one.span);
  const places =
    supporting.length === 1 ? say("passagesOne") : say("passagesMany", { count: String(supporting.length) });
  const sum = { share: percent(answer.confidence), places, first: percent(answer.evidence[0]?.posterior) };
  return h(
    "details",
    {},
    h("summary", {}, say("why")),
    supporting.length && !answer.abstained ? h("p", {}, say("whySum", sum)) : null,
    answer.null_prior > 0 ? h("p", {}, say("nullPrior", { share: percent(answer.null_prior) })) : null,
    answer.alternatives.length
      ? [h("h3", {}, say("others")), answer.alternatives.map(([text, share]) => bar(text, share, "prior"))]
      : null,
  );
}

/** What a recency prior made of the passage; nothing where none acted. */
function recency(one) {
  if (one.recency === null) return null;
  return one.date ? say("recency", { factor: Number(Math.exp(one.recency).toPrecision(2)) }) : say("ageless");
}

function evidenceItem(one) {
  const { passage } = one;
  const facts = [one.source, one.date, say("version", { version: one.document_version }), recency(one)].filter(Boolean);
  return h(
    "li",
    {},
    h(
      "div",
      { class: "row" },
      h("h4", {}, passage.title || passage.document_id),
      h("a", { href: `#/documents/${encodeURIComponent(passage.document_id)}`, class: "small still" }, say("open")),
    ),
    h("p", { class: "soft small" }, facts.join(" · ")),
    h("p", { class: "passage" }, marked(passage.text, one.span)),
    h(
      "div",
      { class: "measures" },
      bar(say("prior"), one.prior, "prior", say("priorHint")),
      bar(say("posterior"), one.posterior, "posterior", say("posteriorHint")),
      one.retrieval_utility === null
        ? null
        : h(
            "p",
            { class: "small soft", title: say("utilityHint") },
            `${say("utility")} ${one.retrieval_utility >= 0 ? "+" : "−"}${Math.abs(one.retrieval_utility).toFixed(2)}`,
          ),
    ),
  );
}
