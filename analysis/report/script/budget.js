"use strict";
// A slider for every cost: what is the best model that costs no more, and what is lost by it?
(() => {
  const { data, meters, known, quantity, cell, element, rows } = kmr;
  const place = document.getElementById("budget");
  if (!data || !place || !kmr.explorer) return;
  const answer = document.getElementById("budget-answer");
  const spread = (name) => rows.finished([name]).map((row) => rows.value(name, row)).sort((a, b) => a - b);
  const costs = [...meters].filter(([, meter]) => meter.cost && meter.sign > 0).map(([name, meter]) => ({ name, meter, values: spread(name) }))
    .filter(({ values }) => values.length && values[0] < values[values.length - 1]);
  const qualities = [...meters].filter(([name, meter]) => !meter.cost && spread(name).length)
    .sort(([a], [b]) => data.objectives.includes(b) - data.objectives.includes(a));
  if (!costs.length || !qualities.length) { place.closest("section").hidden = true; return; }
  const STEPS = 1000;

  const pick = element("select", { id: "budget-quality" }, ...qualities.map(([name, meter]) => element("option", { value: name }, meter.label)));
  place.append(element("label", { class: "pick" }, "Best ", pick));
  const sliders = costs.map(({ name, meter, values }) => {
    const low = values[0], high = values[values.length - 1], log = low > 0 && high / low > 8;
    const at = (position) => (log ? low * (high / low) ** (position / STEPS) : low + (high - low) * position / STEPS);
    const position = (value) => (log ? STEPS * Math.log(value / low) / Math.log(high / low) : STEPS * (value - low) / (high - low));
    const start = known(data.limits[name]) ? Math.min(STEPS, Math.max(0, position(data.limits[name]))) : STEPS;
    const text = element("output", {});
    const input = element("input", { type: "range", min: "0", max: String(STEPS), step: "1", value: String(Math.round(start)), id: "budget-" + name, "data-cost": name });
    place.append(element("div", { class: "slider" }, element("label", { for: input.id }, meter.label), input, text));
    // The study's own limit is met to the last digit until the slider is moved.
    let own = known(data.limits[name]) && data.limits[name] < high ? data.limits[name] : null;
    const limit = () => (own !== null ? own : Number(input.value) >= STEPS ? null : at(Number(input.value)));
    const tell = () => {
      const now = limit(), words = now === null ? "any" : "at most " + quantity(now, meter);
      text.textContent = words;
      input.setAttribute("aria-valuetext", words);
    };
    input.addEventListener("input", () => { own = null; tell(); recommend(); });
    tell();
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
      const least = sliders.filter((slider) => slider.limit() !== null).map((slider) => quantity(slider.values[0], slider.meter) + " of " + slider.meter.label);
      answer.replaceChildren(element("p", {}, "No complete model is within all limits; the least measured: " + least.join(", ") + "."));
      return;
    }
    const base = data.baseline[quality][0], value = rows.value(quality, row), tested = cell(data.test, quality, row);
    const loss = known(base) ? meter.sign * (value - base) : null;
    const noise = Math.hypot(cell(data.stderr, quality, row) || 0, data.baseline[quality][1] || 0);
    const lost = loss === null ? "" : Math.abs(loss) <= noise ? "no difference to the baseline beyond the noise" :
      quantity(Math.abs(loss), meter) + (loss > 0 ? " worse" : " better") + " than the baseline";
    answer.replaceChildren(
      element("p", { class: "choice" }, element("strong", {}, data.point[row]), " ", element("span", { class: "technique" }, data.techniques[data.technique[row]])),
      element("dl", {},
        ...sliders.filter((slider) => known(rows.value(slider.name, row))).map((slider) => element("div", {}, element("dt", {}, slider.meter.label), element("dd", {}, quantity(rows.value(slider.name, row), slider.meter)))),
        element("div", {}, element("dt", {}, meter.label), element("dd", {}, quantity(value, meter, cell(data.stderr, quality, row)) + " on validation" + (lost ? ": " + lost : ""))),
        element("div", { class: "test" }, element("dt", {}, "Held-out test"), element("dd", {}, known(tested) ? quantity(tested, meter, cell(data.testStderr, quality, row)) : "not read: only models on the study's own front are"))),
      element("button", { type: "button", onclick: () => kmr.pin(row) }, "Show this model"));
  }
  pick.addEventListener("change", recommend);
  recommend();
})();
