"use strict";
// Sliders that limit the costs: the best model within the limits, and its loss against the baseline.
(() => {
  const { data, meters, known, quantity, cell, element, rows } = kmr;
  const place = document.getElementById("limits");
  if (!data || !place || !kmr.explorer) return;
  const answer = document.getElementById("limit-answer");
  const spread = (name) => rows.finished([name]).map((row) => rows.value(name, row)).sort((a, b) => a - b);
  const costs = [...meters].filter(([, meter]) => meter.cost && meter.sign > 0).map(([name, meter]) => ({ name, meter, values: spread(name) }))
    .filter(({ values }) => values.length && values[0] < values[values.length - 1]);
  const qualities = [...meters].filter(([name, meter]) => !meter.cost && spread(name).length)
    .sort(([a], [b]) => data.objectives.includes(b) - data.objectives.includes(a));
  if (!costs.length || !qualities.length) { place.closest("section").hidden = true; return; }
  const STEPS = 1000;

  const pick = element("select", { id: "limit-quality" }, ...qualities.map(([name]) => element("option", {}, name)));
  place.append(element("label", { class: "pick" }, "Best ", pick));
  const sliders = costs.map(({ name, meter, values }) => {
    const low = values[0], high = values[values.length - 1], log = low > 0 && high / low > 8;
    const at = (position) => (log ? low * (high / low) ** (position / STEPS) : low + (high - low) * position / STEPS);
    const position = (value) => (log ? STEPS * Math.log(value / low) / Math.log(high / low) : STEPS * (value - low) / (high - low));
    const start = known(data.limits[name]) ? Math.min(STEPS, Math.max(0, position(data.limits[name]))) : STEPS;
    const text = element("output", {});
    const input = element("input", { type: "range", min: "0", max: String(STEPS), step: "1", value: String(Math.round(start)), id: "limit-" + name, "data-cost": name });
    place.append(element("div", { class: "slider" }, element("label", { for: input.id }, name), input, text));
    // Until the slider moves, the limit is exactly the study's own.
    let own = known(data.limits[name]) && data.limits[name] < high ? data.limits[name] : null;
    const limit = () => (own !== null ? own : Number(input.value) >= STEPS ? null : at(Number(input.value)));
    const show = () => {
      const now = limit(), words = now === null ? "any" : "at most " + quantity(now, meter);
      text.textContent = words;
      input.setAttribute("aria-valuetext", words);
    };
    input.addEventListener("input", () => { own = null; show(); recommend(); });
    show();
    return { name, meter, limit, values };
  });
  place.append(element("button", { type: "button", class: "reset", onclick: () => {
    place.querySelectorAll("input[type=range]").forEach((input) => { input.value = String(STEPS); input.dispatchEvent(new Event("input")); });
  } }, "No limits"));

  function recommend() {
    const quality = pick.value, meter = meters.get(quality), limits = {};
    for (const slider of sliders) if (slider.limit() !== null) limits[slider.name] = slider.limit();
    const tie = data.objectives.find((name) => meters.get(name).cost);
    const row = rows.best(rows.finished([quality]), quality, limits, tie);
    kmr.explorer.advise(row, limits);
    if (row < 0) {
      const least = sliders.filter((slider) => slider.limit() !== null).map((slider) => slider.name + " " + quantity(slider.values[0], slider.meter));
      answer.replaceChildren(element("p", {}, "No complete model meets all limits. The lowest readings: " + least.join(", ") + "."));
      return;
    }
    const base = data.baseline[quality][0], value = rows.value(quality, row), tested = cell(data.test, quality, row);
    const loss = known(base) ? meter.sign * (value - base) : null;
    const noise = Math.hypot(cell(data.stderr, quality, row) || 0, data.baseline[quality][1] || 0);
    const lost = loss === null ? "" : Math.abs(loss) <= noise ? "within the noise of the baseline" :
      quantity(Math.abs(loss), meter) + (loss > 0 ? " worse" : " better") + " than the baseline";
    answer.replaceChildren(
      element("p", { class: "choice" }, element("strong", {}, data.point[row]), " ", element("span", { class: "technique" }, data.techniques[data.technique[row]])),
      element("dl", {},
        ...sliders.filter((slider) => known(rows.value(slider.name, row))).map((slider) => element("div", {}, element("dt", {}, slider.name), element("dd", {}, quantity(rows.value(slider.name, row), slider.meter)))),
        element("div", {}, element("dt", {}, quality), element("dd", {}, quantity(value, meter, cell(data.stderr, quality, row)) + " on validation" + (lost ? ": " + lost : ""))),
        element("div", { class: "test" }, element("dt", {}, "Held-out test"), element("dd", {}, known(tested) ? quantity(tested, meter, cell(data.testStderr, quality, row)) : "not measured: only members of the study's front are"))),
      element("button", { type: "button", onclick: () => kmr.pin(row) }, "Show this model"));
  }
  pick.addEventListener("change", recommend);
  recommend();
})();
