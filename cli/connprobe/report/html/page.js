"use strict";
// Draws the figures in the colours of the style sheet, and again when light and dark change.
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const touch = matchMedia("(pointer: coarse)").matches || innerWidth < 600;
  const config = {
    responsive: true, displaylogo: false, scrollZoom: false, displayModeBar: touch ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
  };

  function coloured(value, colour) {
    if (Array.isArray(value)) return value.map((each) => coloured(each, colour));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each, colour)]));
    }
    return typeof value === "string" && value.startsWith("@") ? colour(value) : value;
  }

  function draw() {
    const style = getComputedStyle(document.documentElement);
    const named = (name) => style.getPropertyValue("--" + name.slice(1)).trim();
    const colour = (name) => (name.endsWith("-band") ? named(name.slice(0, -5)) + "33" : named(name));
    const axis = {
      gridcolor: colour("@rule"), linecolor: colour("@rule"), zerolinecolor: colour("@rule"), zerolinewidth: 1,
      tickfont: { size: 12 },
    };
    const title = { size: 12, color: colour("@quiet") };
    const titled = (each) => ({ ...each, ...(each.title && { title: { ...each.title, font: title } }) });
    for (const [id, figure] of Object.entries(figures)) {
      const given = coloured(figure.layout, colour);
      const layout = {
        height: 300, margin: { l: 10, r: touch ? 14 : 24, t: 26, b: 10 },
        paper_bgcolor: colour("@paper"), plot_bgcolor: colour("@paper"),
        font: { family: style.getPropertyValue("font-family") || "sans-serif", size: 13, color: colour("@ink") },
        legend: { orientation: "h", x: 0, y: -0.24, yanchor: "top", font: { size: 12 } },
        hoverlabel: { bgcolor: colour("@card"), bordercolor: colour("@rule"), font: { color: colour("@ink") } },
        dragmode: touch ? false : "zoom", // a finger on a chart scrolls the page
        ...given,
        xaxis: { ...axis, ...titled(given.xaxis) }, yaxis: { ...axis, ...titled(given.yaxis) },
      };
      Plotly.react(id, coloured(figure.data, colour), layout, config);
    }
  }

  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
