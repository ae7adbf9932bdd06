// Draws the page's charts as they come near the window. The tables hold the same numbers without it.
"use strict";

const FONT = "system-ui, sans-serif";
const CONFIG = {
  background: null,
  font: FONT,
  view: { stroke: null },
  point: { color: "var(--series-0)" },
  axis: {
    labelColor: "var(--muted)", titleColor: "var(--muted)", gridColor: "var(--rule)", domainColor: "var(--rule)",
    tickColor: "var(--rule)", titleFontWeight: "normal", titleFontStyle: "italic", labelFontSize: 11, titleFontSize: 11,
  },
  legend: { orient: "bottom", labelColor: "var(--ink)", labelFontSize: 12, labelLimit: 320, symbolOpacity: 1 },
};

// Vega-Lite cannot keep labels from overlapping; Vega's own transform can.
function labelled(spec) {
  if (!spec.marks.some((mark) => mark.name === "labelled_marks")) return spec;
  const anchors = ["right", "left", "top-right", "bottom-right", "top-left", "bottom-left", "top", "bottom"];
  const offsets = [9, 9, 5, 5, 5, 5, 9, 9];
  spec.marks.push({
    name: "labels",
    type: "text",
    from: { data: "labelled_marks" },
    interactive: false,
    encode: {
      enter: {
        text: { signal: "datum.datum.name" },
        fill: { value: "var(--ink)" },
        font: { value: FONT },
        fontSize: { value: 11.5 },
      },
    },
    transform: [
      {
        type: "label",
        size: { signal: "[width, height]" },
        anchor: [...anchors, ...anchors],
        offset: [...offsets, ...offsets.map((offset) => 2.4 * offset)],
        avoidMarks: ["intervals_marks"],
        padding: 0,
      },
    ],
  });
  return spec;
}

async function draw(figure) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const place = document.createElement("div");
  figure.append(place);
  const columns = Math.max(1, Math.floor(figure.clientWidth / (spec.height > 200 ? 190 : 400)));
  const config = { ...CONFIG, legend: { ...CONFIG.legend, columns } };
  await vegaEmbed(
    place,
    { width: "container", ...spec },
    { mode: "vega-lite", actions: false, renderer: "svg", config, patch: labelled },
  );
  figure.classList.add("drawn");
}

document.addEventListener("DOMContentLoaded", () => {
  const near = new IntersectionObserver(
    (seen) => {
      for (const { target } of seen.filter((entry) => entry.isIntersecting)) {
        near.unobserve(target);
        draw(target);
      }
    },
    { rootMargin: "600px" },
  );
  document.querySelectorAll(".vega").forEach((figure) => near.observe(figure));
});
