"use strict";
// Front of any two or three meters. A click, a button in the table, or an arrow key pins a point.
kmr.explorer = (() => {
  const { data, meters, known, quantity, cell, plain, moves, rows } = kmr;
  const plot = document.getElementById("explorer");
  if (!data || !plot) return null;
  const $ = (id) => document.getElementById(id);
  const picks = { x: $("axis-x"), y: $("axis-y"), z: $("axis-z") };
  const logs = { x: $("log-x"), y: $("log-y") };
  const shown = { bars: $("show-bars"), others: $("show-others"), singles: $("show-singles"), test: $("show-test"), all: $("show-all") };
  const symbols3d = ["circle", "square", "diamond", "cross", "circle-open"];
  let members = [], rings = { advised: -1, pinned: -1 }, limits = {};

  const names = () => [picks.x.value, picks.y.value, ...(picks.z.value ? [picks.z.value] : [])];

  function wide(name) {
    let low = Infinity, high = 0;
    for (const row of rows.finished([name])) {
      low = Math.min(low, rows.value(name, row));
      high = Math.max(high, rows.value(name, row));
    }
    return low > 0 && Number.isFinite(low) && high / low > 8;
  }

  function hover(row, test) {
    const lines = ["<b>" + plain(data.point[row]) + "</b> " + plain(data.techniques[data.technique[row]]) + (test ? " · held-out test" : "")];
    for (const [knob, setting] of moves(row)) lines.push(plain(knob) + "=" + plain(setting));
    for (const [name, meter] of meters) {
      const value = test ? cell(data.test, name, row) : rows.value(name, row);
      const error = cell(test ? data.testStderr : data.stderr, name, row);
      if (known(value)) lines.push(plain(name) + ": " + plain(quantity(value, meter, error)));
    }
    if (data.run[row]) lines.push("MLflow run " + plain(data.run[row]));
    lines.push("<i>click to pin</i>");
    return lines.join("<br>");
  }

  function trace(found, options) {
    const [x, y, z] = names();
    const flat = !z, column = (name) => found.map((row) => rows.value(name, row));
    const made = {
      type: flat ? "scatter" : "scatter3d", mode: "markers", x: column(x), y: column(y), customdata: found,
      hovertext: found.map((row) => hover(row, false)), hoverinfo: "text", ...options,
    };
    if (!flat) made.z = column(z);
    return made;
  }

  function bars(found, name, colour) {
    const errors = found.map((row) => cell(data.stderr, name, row) || 0);
    return errors.some((error) => error > 0) ? { type: "data", array: errors, color: colour, thickness: 1.2, width: 3 } : null;
  }

  function axis(name, log, tones) {
    const meter = meters.get(name);
    const made = {
      title: { text: plain(meter.axis), standoff: 12 }, gridcolor: tones.grid, linecolor: tones.quiet, zeroline: false,
      showline: true, ticks: "outside", tickcolor: tones.quiet, automargin: true, type: log ? "log" : "linear",
      exponentformat: "SI", dtick: undefined,
    };
    if (log) {
      const known = rows.finished([name]).map((row) => rows.value(name, row)).filter((value) => value > 0);
      const base = data.baseline[name][0];
      if (base > 0) known.push(base);
      const low = known.reduce((a, b) => Math.min(a, b), Infinity), high = known.reduce((a, b) => Math.max(a, b), 0);
      const decades = Math.log10(high / low);
      const steps = decades < 1.5 ? [1, 1.5, 2, 3, 5, 7] : decades < 3.5 ? [1, 2, 5] : [1];
      made.tickvals = [];
      for (let power = Math.floor(Math.log10(low)) - 1; power <= Math.log10(high) + 1; power += 1) {
        for (const step of kmr.narrow.matches && decades > 1 ? [1, 3] : steps) made.tickvals.push(step * 10 ** power);
      }
      made.ticktext = made.tickvals.map((value) => quantity(value, { ...meter, unit: meter.bytes ? "B" : "" }));
    } else if (meter.bytes || meter.plain) {
      made.ticksuffix = meter.bytes ? "B" : "";
    }
    return made;
  }

  // The axes fit the front and the baseline, with a margin of a quarter of their span. Very poor models are outside, and
  // so are front members worse than the reference point, unless they are most of the front. A double click or
  // "Show: all models" includes them.
  function focus(name, log, complete) {
    const scale = (values) => values.filter((value) => known(value) && (!log || value > 0)).map((value) => (log ? Math.log10(value) : value));
    const good = members.filter((row) => rows.within(row, data.reference));
    const matter = scale([data.baseline[name][0], ...(good.length > 1 && 2 * good.length >= members.length ? good : members).flatMap((row) => {
      const value = rows.value(name, row), error = cell(data.stderr, name, row) || 0;
      return [value - error, value + error, cell(data.test, name, row)];
    })]);
    const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity), least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
    const [from, to] = [least(matter), most(matter)];
    if (shown.all.checked || !(to > from)) return null;
    const every = scale(complete.map((row) => rows.value(name, row))).concat(matter);
    const low = Math.max(least(every), from - 0.25 * (to - from)), high = Math.min(most(every), to + 0.25 * (to - from));
    if (most(every) - least(every) <= 1.5 * (high - low)) return null;
    return [low - 0.05 * (high - low), high + 0.05 * (high - low)];
  }

  function draw() {
    const tones = kmr.colours(), chosen = names(), [x, y, z] = chosen, flat = !z;
    const marker = (group, more) => ({
      color: kmr.tone(data.groups[group].colour),
      symbol: flat ? data.groups[group].symbol : symbols3d[group % symbols3d.length], ...more,
    });
    const complete = rows.finished(chosen);
    members = rows.front(complete, chosen);
    const onFront = new Set(members);
    const models = complete.filter((row) => data.group[row] >= 0 || data.sequence[row].length);
    const rest = models.filter((row) => !onFront.has(row));
    const meets = (row) => rows.within(row, data.limits);
    const unmet = rows.all.filter((row) => data.states[data.state[row]] === "infeasible" && rows.has(chosen)(row))
      .concat(rest.filter((row) => !meets(row)));
    const traces = [];
    let kept = { rows: [], cell: 0 };
    if (shown.others.checked) {
      if (unmet.length) traces.push(trace(rows.thinned(unmet, x, y, 1500).rows, {
        name: "infeasible", legendrank: 1400, opacity: 0.45,
        marker: { color: tones.quiet, symbol: flat ? "x-thin" : "x", size: flat ? 7 : 3, line: { width: 1.5, color: tones.quiet } },
      }));
      kept = rows.thinned(rest.filter(meets), x, y, 4000);
    }
    data.groups.forEach((group, index) => {
      const dim = kept.rows.filter((row) => data.group[row] === index), bright = members.filter((row) => data.group[row] === index);
      const common = { name: plain(group.name), legendgroup: "g" + index, legendrank: index };
      if (dim.length) traces.push(trace(dim, { ...common, showlegend: !bright.length, opacity: flat ? 0.4 : 0.25, marker: marker(index, { size: flat ? 6 : 3, line: { width: kmr.edge(group.colour, null) ? 0.6 : 0, color: kmr.edge(group.colour, tones.paper) } }) }));
    });
    if (flat && shown.singles.checked) singles(traces, tones, complete, chosen);
    if (flat) traces.push(trace(members, {
      mode: "lines", name: "Pareto front", legendrank: 1100, hoverinfo: "skip", hovertext: undefined,
      line: { shape: "hv", color: tones.ink, width: 1.5 },
    }));
    data.groups.forEach((group, index) => {
      const bright = members.filter((row) => data.group[row] === index);
      if (!bright.length) return;
      const made = trace(bright, {
        name: plain(group.name), legendgroup: "g" + index, legendrank: index,
        marker: marker(index, { size: flat ? 11 : 6, line: { width: 1, color: kmr.edge(group.colour, tones.paper) } }),
      });
      if (shown.bars.checked && flat) {
        made.error_x = bars(bright, x, kmr.edge(group.colour, kmr.tone(group.colour)));
        made.error_y = bars(bright, y, kmr.edge(group.colour, kmr.tone(group.colour)));
      }
      traces.push(made);
    });
    if (flat && shown.test.checked) heldOut(traces, tones, chosen);
    baseline(traces, tones, chosen);
    // In the plane rings are shapes, which move without redrawing the points; in space they are points.
    const ringed = (key, label) => traces.push(trace(flat || rings[key] < 0 ? [] : [rings[key]], {
      ...(flat ? { x: [null], y: [null] } : {}), name: label, legendrank: 1500, showlegend: key === "advised", meta: key,
      hoverinfo: "skip", hovertext: undefined, customdata: undefined,
      marker: { symbol: "circle-open", size: flat ? 18 : 12, color: tones.ink, line: { width: 3, color: tones.ink } },
    }));
    ringed("advised", "best within the limits");
    ringed("pinned", "pinned");
    const small = kmr.narrow.matches;
    const layout = {
      font: { family: getComputedStyle(document.body).fontFamily, color: tones.ink, size: small ? 11 : 13 },
      paper_bgcolor: tones.paper, plot_bgcolor: tones.paper, hovermode: "closest", dragmode: small ? false : "zoom",
      hoverlabel: { align: "left", bgcolor: tones.paper, bordercolor: tones.quiet, font: { color: tones.ink, size: small ? 11 : 13 } },
      legend: { orientation: "h", x: 0, y: small ? -0.22 : -0.16, yanchor: "top", itemsizing: "constant", font: { size: small ? 10 : 12 }, ...(small ? { entrywidth: 0.46, entrywidthmode: "fraction" } : {}) },
      margin: { l: small ? 46 : 70, r: small ? 10 : 24, t: 14, b: 50 }, uirevision: chosen.join("|") + logs.x.checked + logs.y.checked + shown.all.checked,
    };
    let far = 0;
    if (flat) {
      layout.xaxis = axis(x, logs.x.checked, tones);
      layout.yaxis = axis(y, logs.y.checked, tones);
      const cuts = [];
      for (const [name, made, log] of [[x, layout.xaxis, logs.x.checked], [y, layout.yaxis, logs.y.checked]]) {
        const ends = focus(name, log, complete);
        if (!ends) continue;
        made.range = ends;
        cuts.push([name, ...ends.map((end) => (log ? 10 ** end : end))]);
      }
      far = complete.filter((row) => cuts.some(([name, low, high]) => rows.value(name, row) < low || rows.value(name, row) > high)).length;
      layout.shapes = lines(tones);
      const values = [...complete.map((row) => rows.value(x, row)), data.baseline[x][0]].filter(known);
      if (values.length && values.every((value) => value === values[0]) && values[0]) layout.xaxis.range = [0.5 * values[0], 1.5 * values[0]].sort((a, b) => a - b);
    } else {
      const space = (name, log) => ({ ...axis(name, log, tones), automargin: undefined, title: { text: plain(titled(meters.get(name))) }, backgroundcolor: tones.paper, color: tones.ink });
      layout.scene = { xaxis: space(x, logs.x.checked), yaxis: space(y, logs.y.checked), zaxis: space(z, wide(z)), aspectmode: "cube", domain: { y: [0.12, 1] }, camera: { eye: { x: 1.8, y: 1.8, z: 1.0 }, center: { x: 0, y: 0, z: -0.15 } } };
      layout.margin = { l: 0, r: 0, t: 0, b: 0 };
      layout.legend.y = 0;
    }
    if (!complete.length) {
      layout.annotations = [{ text: "No complete model has readings of " + plain(chosen.join(" and ")), x: 0.5, y: 0.5, xref: "paper", yref: "paper", showarrow: false, font: { size: 16, color: tones.quiet } }];
    }
    const count = (number, noun) => number.toLocaleString("en") + " " + noun + (number === 1 ? "" : "s");
    const about = [members.length.toLocaleString("en") + " of " + count(complete.length, "model") + " on this front" + (flat ? "; bars: one standard error" : "")];
    if (far) about.push(count(far, "model") + " outside the axes (double-click or Show: all models)");
    if (kept.cell) about.push("of the " + rest.length.toLocaleString("en") + " others, overlapping ones are drawn once");
    $("explorer-caption").textContent = about.join("; ") + ".";
    if (small) fitLegend(traces, layout);
    plot.style.height = small ? layout.height + "px" : "";
    return Plotly.react(plot, traces, layout, kmr.config());
  }

  // On a phone the legend is below, with two names in a row where they fit; the plot keeps its height.
  function fitLegend(traces, layout) {
    const named = traces.filter((made) => made.showlegend !== false && made.name);
    const long = named.some((made) => made.name.length > 20), lines = Math.ceil(named.length / (long ? 1 : 2));
    layout.legend = { ...layout.legend, entrywidth: long ? 0.95 : 0.46, maxheight: 1 };
    layout.height = 390 + 30 * lines;
    layout.legend.y = -62 / (layout.height - 30 * lines - 64);
  }

  function singles(traces, tones, complete, chosen) {
    const alone = new Map();
    for (const row of complete) {
      const name = data.techniques[data.technique[row]];
      if (data.group[row] < 0 || name.includes(" + ")) continue;
      alone.set(name, [...(alone.get(name) || []), row]);
    }
    for (const [name, found] of alone) {
      const line = rows.front(found, chosen), group = data.groups[data.group[found[0]]];
      traces.push(trace(line, {
        mode: "lines", name: plain(name) + " alone", legendrank: 1150, hoverinfo: "skip", hovertext: undefined,
        line: { shape: "hv", color: kmr.edge(group.colour, kmr.tone(group.colour)), width: 1.3, dash: "dash" }, opacity: 0.75, customdata: undefined,
      }));
    }
  }

  const titled = (meter) => meter.name + (!meter.cost && meter.sign > 0 ? ", lower is better" : "");

  function heldOut(traces, tones, [x, y]) {
    const tested = members.filter((row) => known(cell(data.test, x, row)) || known(cell(data.test, y, row)));
    if (!tested.length) return;
    // A cost is the same on any data and seldom has a test value; then its only value is used.
    const at = (name) => tested.map((row) => { const found = cell(data.test, name, row); return known(found) ? found : rows.value(name, row); });
    const was = (name) => tested.map((row) => rows.value(name, row));
    const joined = (name) => was(name).flatMap((value, index) => [value, at(name)[index], null]);
    traces.push({ type: "scatter", mode: "lines", x: joined(x), y: joined(y), line: { color: tones.quiet, width: 1, dash: "dot" }, legendgroup: "test", showlegend: false, hoverinfo: "skip" });
    traces.push({
      type: "scatter", mode: "markers", name: "held-out test", legendgroup: "test", legendrank: 1200, x: at(x), y: at(y), customdata: tested,
      hovertext: tested.map((row) => hover(row, true)), hoverinfo: "text",
      marker: {
        symbol: tested.map((row) => (data.group[row] < 0 ? "star" : data.groups[data.group[row]].symbol) + "-open"),
        color: tested.map((row) => (data.group[row] < 0 ? tones.ink : kmr.edge(data.groups[data.group[row]].colour, kmr.tone(data.groups[data.group[row]].colour)))), size: 10, line: { width: 1.8 },
      },
    });
  }

  function baseline(traces, tones, chosen) {
    const at = chosen.map((name) => data.baseline[name][0]);
    if (!at.every(known)) return;
    const words = chosen.map((name) => plain(name) + ": " + plain(quantity(data.baseline[name][0], meters.get(name), data.baseline[name][1])));
    const made = {
      type: at.length > 2 ? "scatter3d" : "scatter", mode: "markers+text", name: "baseline", legendrank: 1300, x: [at[0]], y: [at[1]],
      text: ["baseline"], textposition: "top center", textfont: { color: tones.ink }, cliponaxis: false, hoverinfo: "text",
      hovertext: ["<b>baseline</b> (uncompressed)<br>" + words.join("<br>")],
      marker: { symbol: at.length > 2 ? "diamond-open" : "star", size: at.length > 2 ? 7 : 16, color: tones.ink, line: { width: 1, color: tones.paper } },
    };
    if (at.length > 2) { made.z = [at[2]]; delete made.cliponaxis; }
    traces.push(made);
  }

  // Lines at the baseline and at the current limits, and rings around the best model within them and the pinned one.
  function lines(tones) {
    const made = [], [x, y] = names();
    const add = (name, value, dash, colour, width) => {
      if (!known(value)) return;
      if (name === x) made.push({ type: "line", x0: value, x1: value, y0: 0, y1: 1, yref: "paper", layer: "below", line: { color: colour, width, dash } });
      if (name === y) made.push({ type: "line", y0: value, y1: value, x0: 0, x1: 1, xref: "paper", layer: "below", line: { color: colour, width, dash } });
    };
    for (const name of [x, y]) add(name, data.baseline[name][0], "dot", tones.quiet, 1);
    for (const [name, limit] of Object.entries(limits)) add(name, limit, "solid", tones.ink, 1.5);
    for (const [key, path, width] of [["advised", circle(11), 3], ["pinned", "M-14,-14L14,-14L14,14L-14,14Z", 2]]) {
      const row = rings[key];
      if (row < 0 || !known(rows.value(x, row)) || !known(rows.value(y, row))) continue;
      made.push({
        type: "path", name: key, path, xsizemode: "pixel", ysizemode: "pixel", xanchor: rows.value(x, row), yanchor: rows.value(y, row),
        line: { width, color: tones.ink }, layer: "above",
      });
    }
    return made;
  }

  // Four arcs as a path in pixels, because plotly draws no circle across zero on a log axis.
  function circle(r) {
    const k = Number((0.5523 * r).toFixed(2));
    return `M${r},0C${r},${k} ${k},${r} 0,${r}C${-k},${r} ${-r},${k} ${-r},0C${-r},${-k} ${-k},${-r} 0,${-r}C${k},${-r} ${r},${-k} ${r},0Z`;
  }

  function ring(key, row) {
    rings[key] = row;
    const [x, y, z] = names();
    if (!z) {
      Plotly.relayout(plot, { shapes: lines(kmr.colours()) });
      return;
    }
    const index = (plot.data || []).findIndex((entry) => entry.meta === key);
    const place = (name) => [row < 0 ? [] : [rows.value(name, row)]];
    if (index >= 0) Plotly.restyle(plot, { x: place(x), y: place(y), z: place(z) }, [index]);
  }

  function advise(row, now) {
    limits = now;
    ring("advised", row);
  }

  for (const key of ["x", "y", "z"]) picks[key].addEventListener("change", () => {
    if (key !== "z") logs[key].checked = wide(picks[key].value);
    draw();
  });
  for (const control of [logs.x, logs.y, ...Object.values(shown)]) control.addEventListener("change", draw);
  logs.x.checked = wide(picks.x.value);
  logs.y.checked = wide(picks.y.value);
  draw();
  kmr.drawers.push(draw);
  plot.on("plotly_click", (event) => {
    const row = event.points[0].customdata;
    if (typeof row === "number") kmr.pin(row);
  });
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step || !members.length) return;
    event.preventDefault();
    const at = members.indexOf(rings.pinned);
    kmr.pin(members[at < 0 ? 0 : (at + step + members.length) % members.length], true);
  });
  return { advise, ring, names };
})();
