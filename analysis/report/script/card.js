"use strict";
// Card of one model: its moves, readings, layers and trial, and the commands to load it or make it again.
kmr.pin = (() => {
  const { data, meters, known, quantity, cell, element, moves, rows } = kmr;
  const card = document.getElementById("card");
  if (!data || !card) return () => {};

  function compared(row, name, meter) {
    const value = rows.value(name, row), base = data.baseline[name][0];
    if (!known(value) || !known(base)) return "";
    if (meter.cost) {
      if (!(value > 0 && base > 0)) return "";
      const factor = value < base ? base / value : value / base;
      return factor < 1.005 ? "like the baseline" : Number(factor.toPrecision(3)) + "× " + (value < base ? "less" : "more");
    }
    const change = value - base;
    return (change >= 0 ? "+" : "−") + quantity(Math.abs(change), meter) + " against the baseline" + (meter.sign > 0 && change ? (change > 0 ? ", worse" : ", better") : "");
  }

  function readings(row) {
    const tested = [...meters.keys()].some((name) => known(cell(data.test, name, row)));
    const body = [...meters].filter(([name]) => known(rows.value(name, row))).map(([name, meter]) => element("tr", {},
      element("th", { scope: "row" }, name),
      element("td", { class: "number" }, quantity(rows.value(name, row), meter, cell(data.stderr, name, row))),
      element("td", { class: "quiet" }, compared(row, name, meter)),
      tested ? element("td", { class: "number test" }, quantity(cell(data.test, name, row), meter, cell(data.testStderr, name, row))) : null));
    return element("table", { class: "readings" },
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Meter"), element("th", { scope: "col", class: "number" }, "Cost or validation"),
        element("th", { scope: "col" }, ""), tested ? element("th", { scope: "col", class: "number test" }, "Held-out test") : null)),
      element("tbody", {}, ...body));
  }

  function strip(row) {
    const steps = moves(row);
    if (!steps.length) return element("p", { class: "quiet" }, "No moves: this is the base model.");
    return element("ol", { class: "strip", "aria-label": "Sequence of moves" },
      element("li", { class: "start" }, "base"), ...steps.map(([knob, value]) => element("li", {}, element("span", {}, knob), element("strong", {}, value))));
  }

  function chance(row) {
    const found = cell({ chance: data.chance }, "chance", row);
    return known(found) ? element("p", { class: "quiet" }, "On the front with probability " + found.toFixed(2) + ", given the noise.") : null;
  }

  // A bar for each layer and property: the share of the base model's value.
  function layers(row) {
    const found = data.layers[row];
    if (!found || !found.length) return null;
    const columns = [["width", "Width"], ["rank", "Rank"], ["bits", "Bits"], ["kept", "Kept weights"], ["bytes", "Stored bytes"]]
      .filter(([name]) => found.some((layer) => known(layer[name])));
    const one = (layer, name) => {
      if (!known(layer[name])) return element("td", {}, "–");
      const whole = name === "kept" ? 1 : layer[name + "_of"], share = whole > 0 ? Math.min(layer[name] / whole, 1) : 1;
      const text = name === "kept" ? (100 * layer[name]).toFixed(0) + " %" : name === "bytes" ? quantity(layer[name], { bytes: true }) :
        name === "bits" ? Number(layer[name].toPrecision(3)) : layer[name] + " / " + layer[name + "_of"];
      const bar = element("span", { class: "share", "aria-hidden": "true" });
      const filled = element("span", {});
      filled.style.width = (100 * share).toFixed(1) + "%";
      bar.append(filled);
      return element("td", {}, bar, element("span", { class: "value" }, String(text)));
    };
    return element("details", { open: found.length <= 24 }, element("summary", {}, "Layers (" + found.length + ")"),
      element("div", { class: "scroll layers", tabindex: "0", role: "region", "aria-label": "Layers" }, element("table", {},
        element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Layer"), ...columns.map(([, title]) => element("th", { scope: "col" }, title)))),
        element("tbody", {}, ...found.map((layer) => element("tr", {}, element("th", { scope: "row" }, layer.layer), ...columns.map(([name]) => one(layer, name))))))));
  }

  function way(row) {
    const trial = data.trial[row];
    if (trial < 0) return null;
    const steps = rows.all.filter((other) => data.trial[other] === trial && data.step[other] > 0).sort((a, b) => data.step[a] - data.step[b]);
    if (steps.length < 1) return null;
    const shown = data.objectives.map((name) => [name, meters.get(name)]);
    const line = (other, label, move, value) => element("tr", { class: other === row ? "current" : "" },
      element("th", { scope: "row" }, label), element("td", {}, move),
      ...shown.map(([name, meter]) => element("td", { class: "number" }, value(name, meter))),
      element("td", { class: "number" }, other === null || !known(data.seconds[other]) ? "" : data.seconds[other].toFixed(1)));
    const last = (other) => {
      const made = moves(other);
      return made.length ? made[made.length - 1].join("=") : data.states[data.state[other]] + (data.error[other] ? ": " + data.error[other] : "");
    };
    return element("details", { open: true }, element("summary", {}, "The trial, step by step"), element("div", { class: "scroll" }, element("table", { class: "way" },
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Model"), element("th", { scope: "col" }, "Move"),
        ...shown.map(([name]) => element("th", { scope: "col", class: "number" }, name)), element("th", { scope: "col", class: "number" }, "Seconds"))),
      element("tbody", {}, line(null, "base", "–", (name, meter) => quantity(data.baseline[name][0], meter)),
        ...steps.map((other) => line(other, data.point[other], last(other), (name, meter) => quantity(rows.value(name, other), meter, cell(data.stderr, name, other))))))));
  }

  function command(row) {
    const how = data.reproduce;
    if (!how.command || !data.sequence[row].length) return null;
    const used = new Map(data.sequence[row].map(([knob, value]) => [data.knobs[knob], value]));
    if (used.size < data.sequence[row].length) return null;
    const names = [...new Set([...how.knobs, ...data.knobs])];
    const set = names.map((name) => "'++space." + name + "=" + (used.has(name) ? JSON.stringify(used.get(name)).replaceAll("'", "") : "null") + "'");
    const title = data.study.replaceAll(/[^A-Za-z0-9_.-]/g, "_") + "-" + data.point[row];
    return [how.command, "name=" + title, "trials=1", ...set].join(" ");
  }

  // On another machine the folder does not exist; the other command does not need it.
  const again = (row) => (data.sequence[row].length ? "python -m sweeps.reproduce " + quoted(data.folder) + " " + data.point[row] : "");
  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'");

  function copyable(title, text) {
    if (!text) return null;
    const code = element("code", {}, text);
    const button = element("button", { type: "button", onclick: () => {
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      let copied = false;
      try { copied = document.execCommand("copy"); } catch { copied = false; }
      button.textContent = copied ? "Copied" : "Selected";
    } }, "Copy");
    return element("div", { class: "copy" }, element("span", { class: "quiet" }, title), button, element("pre", {}, code));
  }

  function pin(row, keepFocus) {
    const name = data.point[row], group = data.group[row];
    const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = group < 0 ? "var(--ink)" : kmr.tone(data.groups[group].colour);
    const title = element("h3", { tabindex: "-1" }, swatch, name + " ", element("span", { class: "technique" }, data.techniques[data.technique[row]]));
    const run = data.run[row];
    const trusted = data.trusted && data.trusted.length ? ", trusted_modules=" + JSON.stringify(data.trusted) : "";
    const link = run && data.link ? element("p", {}, element("a", { href: data.link + encodeURIComponent(run), rel: "noreferrer", target: "_blank" }, "Open the MLflow run"), element("span", { class: "quiet" }, " (while mlflow ui is running)")) : null;
    card.replaceChildren(...[
      element("header", {}, title, element("button", { type: "button", class: "close", "aria-label": "Close the card", onclick: close }, "×")),
      strip(row), chance(row), element("div", { class: "scroll" }, readings(row)), layers(row), way(row),
      data.notes[row] ? element("p", { class: "quiet notes" }, data.notes[row]) : null,
      copyable("Load this model", data.artifact[row] ? "kmr.load(" + JSON.stringify(data.folder + "/" + data.artifact[row]) + trusted + ")" : ""),
      copyable("Make it again and compare readings", again(row)), copyable("Make it without the run folder", command(row)), copyable("MLflow run", run || ""), link,
    ].filter(Boolean));
    card.hidden = false;
    kmr.explorer.ring("pinned", row);
    document.querySelectorAll("tr[data-point]").forEach((line) => line.classList.toggle("pinned", line.dataset.point === name));
    if (!keepFocus) title.focus({ preventScroll: !kmr.narrow.matches });
  }

  function close() {
    card.hidden = true;
    card.replaceChildren();
    kmr.explorer.ring("pinned", -1);
    document.querySelectorAll("tr.pinned").forEach((line) => line.classList.remove("pinned"));
    document.getElementById("explorer").focus({ preventScroll: true });
  }
  card.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  return pin;
})();
