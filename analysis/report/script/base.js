"use strict";
// Shared parts of the page: the study's data, values as text, and elements made from plain text.
const kmr = (() => {
  const source = document.getElementById("study-data");
  const data = source ? JSON.parse(source.textContent) : null;
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 640px)");
  const meters = new Map((data ? data.meters : []).map((meter) => [meter.name, meter]));
  const prefixes = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  let printing = false;

  const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

  function digits(value, stderr) {
    if (known(stderr) && stderr > 0) {
      const decimals = Math.min(Math.max(1 - Math.floor(Math.log10(stderr)), 0), 9);
      return value.toFixed(decimals) + " ± " + stderr.toFixed(decimals);
    }
    const size = Math.abs(value);
    if (value === 0 || (size >= 1e-4 && size < 1e6)) {
      const magnitude = value ? Math.floor(Math.log10(size)) : 0;
      return String(Number(value.toFixed(Math.max(3 - magnitude, 0))));
    }
    return value.toPrecision(3);
  }

  function quantity(value, meter, stderr) {
    if (!known(value)) return "–";
    let scale = 1, prefix = "";
    if (meter.bytes || (meter.plain && Math.abs(value) >= 1e4)) {
      const found = prefixes.find(([size]) => Math.abs(value) >= size);
      if (found) [scale, prefix] = found;
    }
    const suffix = meter.bytes ? prefix + "B" : meter.plain ? prefix : meter.unit;
    return digits(value / scale, known(stderr) ? stderr / scale : null) + (suffix ? " " + suffix : "");
  }

  // A column that is mostly empty has row numbers and values; any other has a value for every row.
  function cell(columns, name, row) {
    const column = columns[name];
    if (!column) return null;
    if (!column.at) return column.is[row];
    column.places = column.places || new Map(column.at.map((at, index) => [at, index]));
    return column.places.has(row) ? column.is[column.places.get(row)] : null;
  }

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "class") made.className = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  // Plotly reads tags and entities in its labels, so names are escaped.
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  const number = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value));
  const moves = (row) => data.sequence[row].map(([knob, value]) => [data.knobs[knob], number(value)]);

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue("--" + name).trim();
    if (printing) return { ink: "#000000", quiet: "#444444", grid: "#e2e5e9", paper: "#ffffff" };
    return { ink: of("ink"), quiet: of("quiet"), grid: of("grid"), paper: of("paper") };
  }

  // On a dark page the deep tones of the palette are lighter; on a light page its yellow has an edge.
  const lighter = { "#0072b2": "#4ba6e0", "#d55e00": "#f2863a", "#009e73": "#2ec59a", "#6e7781": "#9aa5b1" };
  const isDark = () => wantsDark.matches && !printing;
  const tone = (colour) => (isDark() && lighter[colour.toLowerCase()]) || colour;
  const edge = (colour, otherwise) => (!isDark() && colour.toLowerCase() === "#f0e442" ? colours().quiet : otherwise);

  // Plots follow the colour scheme and the width; in print they are dark on white.
  const drawers = [];
  const drawAll = () => drawers.forEach((draw) => draw());
  wantsDark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  window.addEventListener("beforeprint", () => { printing = true; drawAll(); });
  window.addEventListener("afterprint", () => { printing = false; drawAll(); });

  const config = () => ({
    responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
    displayModeBar: narrow.matches ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud"],
    toImageButtonOptions: { format: "svg", filename: document.title },
  });

  return {
    data, meters, known, quantity, cell, element, plain, moves, colours, drawers, config, narrow, tone, edge, lighter, isDark,
  };
})();
