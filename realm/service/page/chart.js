// Lines over steps as SVG, with the figures under the pointer, under the finger, or by the arrow keys.

import { h } from "./dom.js";
import { count, say, sayOr } from "./words.js";

const WIDTH = 360;
const HEIGHT = 190;
const EDGE = { left: 48, right: 22, top: 10, bottom: 24 };

/** An SVG element; `h` makes those of HTML. */
function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.flat());
  return element;
}

/** Some `about` round numbers from at most `low` to at least `high`. */
export function ticks(low, high, about) {
  if (!(high - low > 1e-9 * Math.max(1, Math.abs(low), Math.abs(high)))) {
    const spread = Math.abs(low) * 0.1 || 1;
    [low, high] = [low - spread, high + spread];
  }
  const power = 10 ** Math.floor(Math.log10((high - low) / about));
  const size = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= ((high - low) / about) * 0.999);
  const [first, last] = [Math.floor(low / size + 1e-9), Math.ceil(high / size - 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * size).toPrecision(12)));
}

/** How a figure is written: a share in per cent, a large number whole, another with four digits. */
const figure = (curve) => (value) => {
  if (curve.share) return `${(100 * value).toFixed(1)}%`;
  const text = Math.abs(value) >= 1000 ? count(Math.round(value)) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
};

/** One plot with its title, what it means, its lines, and a table of its figures. */
export function chart(curve) {
  const lines = curve.series;
  const points = lines.flatMap((line) => line.points);
  const steps = [...new Set(points.map(([step]) => step))].sort((a, b) => a - b);
  const marks = ticks(Math.min(...points.map(([, y]) => y)), Math.max(...points.map(([, y]) => y)), 4);
  const [first, last, low, high] = [steps[0], steps.at(-1), marks[0], marks.at(-1)];
  const x = (step) => {
    const share = last > first ? (step - first) / (last - first) : 0.5;
    return EDGE.left + share * (WIDTH - EDGE.left - EDGE.right);
  };
  const y = (value) => HEIGHT - EDGE.bottom - ((value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const write = figure(curve);
  const title = sayOr(`curve.${curve.name}`, curve.title);
  const label = (line) => sayOr(`curve.${curve.name}.${line.name}`, line.label);
  const said = (line) => `${label(line)}: ${write(line.points[0][1])} → ${write(line.points.at(-1)[1])}`;

  const cursor = draw("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" });
  const dots = lines.map((_, number) => draw("circle", { class: `dot line-${number}`, r: 3.5, visibility: "hidden" }));
  const picture = draw(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${lines.map(said).join("; ")}` },
    marks.map((value) => [
      draw("line", { class: "rule", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }),
      draw("text", { x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, write(value)),
    ]).flat(),
    ticks(first, last, 4)
      .filter((step) => step >= first && step <= last)
      .map((step) => draw("text", { x: x(step), y: HEIGHT - 6, "text-anchor": "middle" }, count(step))),
    lines.map((line, number) =>
      draw("path", {
        class: `line line-${number}`,
        d: line.points.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join(""),
      }),
    ),
    cursor,
    dots,
  );

  const told = h("output", { class: "small" });
  const slider = h("input", { type: "range", min: 0, max: steps.length - 1, step: 1, "aria-label": `${title}: ${say("step")}` });
  slider.value = steps.length - 1;
  const look = () => {
    const step = steps[slider.value];
    const there = lines.map((line) => line.points.find(([at]) => at === step));
    cursor.setAttribute("x1", x(step));
    cursor.setAttribute("x2", x(step));
    cursor.setAttribute("visibility", "visible");
    dots.forEach((dot, number) => {
      dot.setAttribute("visibility", there[number] ? "visible" : "hidden");
      if (!there[number]) return;
      dot.setAttribute("cx", x(step));
      dot.setAttribute("cy", y(there[number][1]));
    });
    const figures = lines.map((line, number) => there[number] && `${label(line)} ${write(there[number][1])}`);
    told.textContent = `${say("step")} ${count(step)}: ${figures.filter(Boolean).join(", ")}`;
    slider.setAttribute("aria-valuetext", told.textContent);
  };
  slider.addEventListener("input", look);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * WIDTH;
    const near = (step) => Math.abs(x(step) - at);
    slider.value = steps.reduce((best, step, index) => (near(step) < near(steps[best]) ? index : best), 0);
    look();
  });
  look();
  return h(
    "figure",
    { class: "card plot" },
    h("figcaption", {}, h("h3", {}, title), h("p", { class: "soft small" }, sayOr(`curve.${curve.name}.meaning`, curve.meaning))),
    h(
      "ul",
      { class: "legend small" },
      lines.map((line, number) => h("li", {}, h("span", { class: `swatch line-${number}`, "aria-hidden": "true" }), label(line))),
    ),
    picture,
    slider,
    told,
    h("details", {}, h("summary", {}, say("figures")), table(curve, steps, label, write, title)),
  );
}

function table(curve, steps, label, write, title) {
  const at = curve.series.map((line) => new Map(line.points));
  return h(
    "div",
    { class: "figures", tabindex: 0, role: "group", "aria-label": `${title}: ${say("figures")}` },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, say("step")), curve.series.map((line) => h("th", { scope: "col" }, label(line))))),
      h(
        "tbody",
        {},
        steps.map((step) =>
          h("tr", {}, h("th", { scope: "row" }, count(step)), at.map((line) => h("td", {}, line.has(step) ? write(line.get(step)) : "–"))),
        ),
      ),
    ),
  );
}
