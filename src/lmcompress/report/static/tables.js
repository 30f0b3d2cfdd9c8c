// Every table with a head and at least three rows can be sorted: each head becomes a button, aria-sort says the order.
(() => {
  "use strict";
  function make(tag, attributes = {}, ...inside) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...inside);
    return element;
  }
  function button(text, act, attributes = {}) {
    const made = make("button", {type: "button", ...attributes}, text);
    made.addEventListener("click", act);
    return made;
  }
  // -1, 0 or 1; what is unknown comes last in either direction.
  function compare(a, b, sign) {
    const lost = (v) => v === null || v === "" || v === "–";
    if (lost(a) || lost(b)) return lost(a) - lost(b);
    return sign * (typeof a === "number" && typeof b === "number" ? a - b
      : String(a).localeCompare(String(b), "en", {numeric: true}));
  }

  function sortable(table) {
    const body = table.tBodies[0], heads = table.tHead && table.tHead.rows.length === 1 && table.tHead.rows[0].cells;
    if (!heads || !body || body.rows.length < 3 || table.querySelector("[rowspan],[colspan]")) return;
    const first = [...body.rows];
    const value = (row, at) => {
      const text = row.cells[at].textContent.trim(), number = parseFloat(text.replace(/,/g, "").replace("−", "-"));
      return /^[-−+]?[\d.,]+(e[-+]?\d+)?( .*)?$/i.test(text) && !isNaN(number) ? number : text;
    };
    [...heads].forEach((head, at) => {
      if (!head.textContent.trim() || head.querySelector("a,button,input")) return;  // no name, or a button of its own
      const words = button("", () => {
        const now = head.getAttribute("aria-sort"), next = !now ? "ascending" : now === "ascending" ? "descending" : "";
        [...heads].forEach((other) => other.removeAttribute("aria-sort"));
        if (next) head.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1;
        const rows = next ? [...first].sort((a, b) => compare(value(a, at), value(b, at), sign)) : first;
        body.append(...rows);
      }, {class: "lm-sort"});
      words.append(...head.childNodes);
      head.append(words);
    });
  }

  function start() {
    document.querySelectorAll("article table.table, .lm-table table").forEach((table) => {
      if (!table.closest("section.lm-explorer")) sortable(table);
    });
  }
  globalThis.lmTables = {make, button, compare};
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
})();
