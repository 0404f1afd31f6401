"use strict";
// Rows to draw, the front, and the best model within limits, for any chosen meters.
kmr.rows = (() => {
  const { data, known, meters } = kmr;
  if (!data) return null;
  const complete = data.states.indexOf("complete");
  const all = data.point.map((_, row) => row);
  const value = (name, row) => data.value[name][row];
  const has = (names) => (row) => names.every((name) => known(value(name, row)));
  const finished = (names) => all.filter((row) => data.state[row] === complete && has(names)(row));
  const cost = (name, row) => meters.get(name).sign * value(name, row);

  function dominates(one, other, names) {
    let better = false;
    for (const name of names) {
      const difference = cost(name, one) - cost(name, other);
      if (difference > 0) return false;
      if (difference < 0) better = true;
    }
    return better;
  }

  // Ordered from the best of the first meter; of equal rows the earlier one. Two meters need one pass, more a scan of the members so far.
  function front(rows, names) {
    const ordered = [...rows].sort((a, b) => {
      for (const name of names) {
        const difference = cost(name, a) - cost(name, b);
        if (difference) return difference;
      }
      return a - b;
    });
    const kept = [];
    let best = Infinity;
    for (const row of ordered) {
      if (names.length === 2) {
        const second = cost(names[1], row);
        if (second < best) { kept.push(row); best = second; }
      } else if (!kept.some((member) => dominates(member, row, names) || names.every((n) => cost(n, member) === cost(n, row)))) {
        kept.push(row);
      }
    }
    return kept;
  }

  const within = (row, limits) => Object.entries(limits).every(([name, limit]) =>
    !meters.has(name) || !known(value(name, row)) || meters.get(name).sign * (value(name, row) - limit) <= 0);

  function best(rows, quality, limits, tie) {
    let found = -1;
    for (const row of rows) {
      if (!Object.keys(limits).every((name) => known(value(name, row))) || !within(row, limits)) continue;
      if (found < 0) { found = row; continue; }
      const gain = cost(quality, row) - cost(quality, found);
      if (gain < 0 || (gain === 0 && tie && cost(tie, row) < cost(tie, found))) found = row;
    }
    return found;
  }

  // Of points that overlap on the screen one is drawn; the grid becomes coarser until few enough are left.
  function thinned(rows, x, y, most) {
    if (rows.length <= most) return { rows, cell: 0 };
    const span = (name) => {
      const values = rows.map((row) => value(name, row));
      const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
      const log = low > 0 && high / low > 8;
      const scale = log ? Math.log : (number) => number;
      return (row) => (scale(value(name, row)) - scale(low)) / ((scale(high) - scale(low)) || 1);
    };
    const [across, up] = [span(x), span(y)];
    for (let cell = 2; ; cell += 1) {
      const seen = new Map();
      for (const row of rows) {
        const key = Math.round(across(row) * 1000 / cell) * 4096 + Math.round(up(row) * 500 / cell);
        if (!seen.has(key)) seen.set(key, row);
      }
      if (seen.size <= most) return { rows: [...seen.values()], cell };
    }
  }

  return { all, value, finished, front, within, best, thinned, has, rowOf: new Map(data.point.map((name, row) => [name, row])) };
})();
