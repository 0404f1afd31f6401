"use strict";
// Prepared figures in the page's colours, and tables that sort by a click on a heading.
(() => {
  // The figures contain neutral tokens, which a dark page replaces; all other colours suit both schemes.
  const tokens = { "#24292f": "ink", "#6e7781": "quiet", "#e2e5e9": "grid", "#ffffff": "paper" };

  function draw(node) {
    let text = document.getElementById("figure-" + node.dataset.figure).textContent;
    const tones = kmr.colours();
    for (const [token, name] of Object.entries(tokens)) text = text.replaceAll('"' + token + '"', '"' + tones[name] + '"');
    if (kmr.isDark()) for (const [deep, light] of Object.entries(kmr.lighter)) text = text.replaceAll('"' + deep.toUpperCase() + '"', '"' + light + '"');
    const figure = JSON.parse(text), layout = figure.layout, title = layout.title || {}, small = kmr.narrow.matches;
    const caption = node.parentElement.querySelector("figcaption");
    caption.textContent = decoded([title.text, (title.subtitle || {}).text].filter(Boolean).join(": "));
    delete layout.title;
    if (layout.height) node.style.height = layout.height + "px";
    layout.margin = Object.assign({}, layout.margin, { t: 34, r: small ? 12 : 30, l: small ? 44 : 70 });
    if (small) {
      layout.font.size = 11;
      layout.legend = Object.assign({}, layout.legend, { font: { size: 10 } });
      if (layout.xaxis && layout.xaxis.ticktext) {
        layout.xaxis.tickangle = -40;
        layout.legend.y = -0.5;
      }
      layout.dragmode = false;
    }
    return Plotly.react(node, figure.data, layout, kmr.config());
  }

  // Labels are escaped for plotly, which reads markup; the caption is plain text.
  function decoded(text) {
    return text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  }

  const nodes = [...document.querySelectorAll("[data-figure]")];
  // A figure is drawn when it is near the screen, so that the first screen appears at once.
  const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    near.unobserve(entry.target);
    reveal(entry.target);
  }), { rootMargin: "600px" });
  const drawn = new Set();
  function reveal(node) {
    if (drawn.has(node)) return;
    drawn.add(node);
    draw(node);
    kmr.drawers.push(() => draw(node));
  }
  nodes.forEach((node) => near.observe(node));
  window.addEventListener("beforeprint", () => nodes.forEach(reveal));

  function sort(table, index, head) {
    const up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0], lines = [...body.rows].filter((line) => !line.classList.contains("baseline"));
    const key = (line) => {
      const cell = line.cells[index], value = cell.dataset.value;
      return value === undefined ? cell.textContent.trim() : value === "" ? null : Number(value);
    };
    lines.sort((a, b) => {
      const [one, other] = [key(a), key(b)];
      // Unknown values stay at the end in both directions.
      if (one === null || other === null) return (one === null) - (other === null);
      const order = typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
      return up ? order : -order;
    });
    body.append(...lines);
  }

  // A click shows the further columns; without this script all are visible.
  document.querySelectorAll("table[data-more]").forEach((table) => {
    const button = document.createElement("button"), count = Number(table.dataset.more);
    const fold = (folded) => {
      table.classList.toggle("folded", folded);
      button.setAttribute("aria-expanded", String(!folded));
      button.textContent = folded ? "Show " + count + " more " + (count === 1 ? "column" : "columns") : "Show fewer columns";
    };
    button.type = "button";
    button.className = "unfold";
    button.addEventListener("click", () => fold(!table.classList.contains("folded")));
    fold(true);
    table.parentElement.after(button);
  });
  document.querySelectorAll("table[data-sort]").forEach((table) => {
    table.querySelectorAll("th[data-column]").forEach((head) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, Number(head.dataset.column), head));
      head.append(button);
    });
  });
  if (kmr.rows) document.querySelectorAll("tr[data-point] > th").forEach((head) => {
    const name = head.parentElement.dataset.point;
    if (!kmr.rows.rowOf.has(name)) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "pin";
    button.title = "Show this model";
    button.append(...head.childNodes);
    button.addEventListener("click", () => {
      kmr.pin(kmr.rows.rowOf.get(name));
      document.getElementById("card").scrollIntoView({ block: "nearest" });
    });
    head.append(button);
  });
})();
