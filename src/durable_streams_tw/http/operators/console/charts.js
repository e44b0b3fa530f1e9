// Small line charts in SVG.

const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Draw values, oldest first, into an svg element; null is a gap. `label` is for screen readers.
export function draw(svg, values, label) {
  const width = 200;
  const height = 48;
  const most = Math.max(...values.filter((value) => value !== null), 0) || 1;
  const step = width / Math.max(values.length - 1, 1);
  let path = "";
  let area = "";
  let start = null;
  values.forEach((value, index) => {
    if (value === null) {
      start = null;
      return;
    }
    const x = (index * step).toFixed(1);
    const y = (height - 2 - (value / most) * (height - 6)).toFixed(1);
    path += `${start === null ? "M" : "L"}${x} ${y}`;
    area += start === null ? `M${x} ${height}L${x} ${y}` : `L${x} ${y}`;
    const ends = (values[index + 1] ?? null) === null;
    if (ends) area += `L${x} ${height}Z`;
    // A value between two gaps is a dash.
    if (ends && start === null) path += "h2";
    start ??= x;
  });
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  svg.replaceChildren(shape("path", { d: area, class: "area" }), shape("path", { d: path, class: "line" }));
}

export const chart = (className) => shape("svg", { class: className });
