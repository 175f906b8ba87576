// Elements are made here and nowhere else. Text always goes in as text: nothing on this page is parsed as HTML.

/** h("p", {class: "soft", onclick: f}, "text", element, null): an element with its attributes, listeners and children. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && typeof value === "boolean") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what an element holds. */
export function show(place, ...children) {
  place.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

/** A passage's text with the characters [start, end) marked. Offsets count code points, as Python does. */
export function marked(text, span) {
  if (!span) return [text];
  const points = [...text];
  const [start, end] = span;
  const piece = (from, to) => points.slice(from, to).join("");
  return [piece(0, start), h("mark", {}, piece(start, end)), piece(end)];
}

/** A share as a bar with its figure; the figure is what a screen reader says. */
export function bar(label, share, kind, hint) {
  const width = Math.max(0, Math.min(1, share ?? 0));
  const fill = h("span", { class: `fill ${kind}` });
  fill.style.inlineSize = `${(100 * width).toFixed(1)}%`;
  return h(
    "div",
    { class: "measure", title: hint },
    h("span", { class: "label" }, label),
    h("span", { class: "track", "aria-hidden": "true" }, fill),
    h("span", { class: "figure" }, percent(share)),
  );
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)}%`);

let last = 0;

/** A label tied to its field. */
export function field(label, input, hint) {
  input.id = `field-${++last}`;
  const note = hint && h("span", { class: "soft small", id: `${input.id}-hint` }, hint);
  if (note) input.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input, note);
}
