"use strict";
(() => {
  // The figures are drawn with neutral tokens; a dark page exchanges them, everything else is readable on both.
  const dark = { "#24292f": "#e6edf3", "#6e7781": "#9aa5b1", "#e2e5e9": "#2b323b", "#ffffff": "#14181d" };
  const wanted = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 640px)");
  const config = {
    responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud"],
    toImageButtonOptions: { format: "svg", filename: document.title },
  };

  function draw(node, light) {
    let text = document.getElementById("figure-" + node.dataset.figure).textContent;
    if (!light && wanted.matches) {
      for (const [from, to] of Object.entries(dark)) text = text.replaceAll('"' + from + '"', '"' + to + '"');
    }
    const figure = JSON.parse(text), layout = figure.layout, title = layout.title || {};
    const caption = node.parentElement.querySelector("figcaption");
    caption.innerHTML = "";
    caption.append(decoded([title.text, (title.subtitle || {}).text].filter(Boolean).join(": ")));
    delete layout.title;
    layout.margin = Object.assign({}, layout.margin, { t: 34, r: narrow.matches ? 12 : 30, l: narrow.matches ? 44 : 70 });
    if (narrow.matches) {
      layout.font.size = 11;
      layout.legend.font = { size: 11 };
      config.displayModeBar = false;
      layout.dragmode = false;
    }
    return Plotly.react(node, figure.data, layout, config);
  }

  // Labels were escaped for plotly, which reads them as markup; the caption is plain text.
  function decoded(text) {
    return text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  }

  const nodes = [...document.querySelectorAll("[data-figure]")];
  const drawAll = (light) => nodes.forEach((node) => draw(node, light));
  drawAll(false);
  wanted.addEventListener("change", () => drawAll(false));
  window.addEventListener("beforeprint", () => drawAll(true));
  window.addEventListener("afterprint", () => drawAll(false));
})();
