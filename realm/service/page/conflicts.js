// Documents that disagree: each side with its dates and sources, which is preferred, and why.

import { h, percent } from "./dom.js";
import { say } from "./words.js";

export function conflictPart(answer) {
  const { conflicts: sides } = answer;
  return h(
    "section",
    { class: "conflict stack" },
    h("h3", {}, say("conflict")),
    h("ul", { class: "opposed" }, sides.map(sidePart)),
    h("p", {}, reasons(sides, answer.abstained)),
  );
}

function sidePart(side) {
  return h(
    "li",
    {},
    h("p", {}, h("b", {}, side.text), ` · ${side.date ?? say("undated")} · ${percent(side.mass)}`),
    h(
      "ul",
      { class: "soft small" },
      side.evidence.map(({ passage, source, date }) =>
        h(
          "li",
          {},
          h("a", { href: `#/documents/${encodeURIComponent(passage.document_id)}` }, passage.title || passage.document_id),
          [source, date ?? say("undated")].filter(Boolean).map((known) => ` · ${known}`),
        ),
      ),
    ),
  );
}

/** Which side is preferred and why, and what its date says for or against that. */
function reasons(sides, abstained) {
  const given = sides.find((side) => side.preferred);
  const others = sides.filter((side) => !side.preferred);
  const strongest = others.reduce((a, b) => (b.mass > a.mass ? b : a));
  const newest = others.reduce((a, b) => ((b.date ?? "") > (a.date ?? "") ? b : a));
  const values = {
    text: given.text,
    share: percent(given.mass),
    other: strongest.text,
    against: percent(strongest.mass),
    date: given.date ?? say("undated"),
    newest: newest.text,
    later: newest.date ?? say("undated"),
  };
  const why = { likeliest: "conflictLikeliest", recency: "conflictRecency" }[given.reason] ?? "conflictMass";
  return [
    say(abstained ? "conflictNone" : "conflictGiven", values),
    say(why, values),
    (newest.date ?? "") > (given.date ?? "") ? say("conflictNewer", values) : null,
    (given.date ?? "") > (newest.date ?? "") ? say("conflictNewest", values) : null,
  ]
    .filter(Boolean)
    .join(" ");
}
