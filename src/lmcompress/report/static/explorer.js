// The explorer filters, draws, lists and redoes the rows of report/explorer.py. Its state is the part of the address
// after #, so that a view can be linked. It comes after tables.js and needs no other library.
(() => {
  "use strict";
  const {make, button, compare} = globalThis.lmTables;
  const OWN = ["model", "measured on", "page", "kind"], ROWS = 50, STOPS = 60, PANELS = 12, MARKS = ["M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-3.5-3.5h7v7h-7z", "M0-5L5 0L0 5L-5 0z",
    "M-4.5 4L0-4.5L4.5 4z", "M-4.5-4L0 4.5L4.5-4z", "M-4 0L0-4.5L4 0L2.5 4.5h-5z", "M-4.5-3L-3-4.5L0-1.5L3-4.5L4.5-3L1.5 0L4.5 3L3 4.5L0 1.5L-3 4.5L-4.5 3L-1.5 0z",
    "M0-5L1.5-1.5L5 0L1.5 1.5L0 5L-1.5 1.5L-5 0L-1.5-1.5z"];
  const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const unique = (list) => [...new Set(list)];
  const written = (value) => value === null ? "–"
    : Math.abs(value) >= 1e9 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2)
    : Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
  // The explorer
  class Explorer {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(root.querySelector("script").textContent);
      this.columns = new Map(this.data.columns.map((column) => [column.name, column]));
      this.facets = this.data.columns.filter((column) => column.levels);
      this.measures = this.data.columns.filter((column) => column.numbers);
      this.view = Object.values(this.data.views)[0];
      this.count = this.facets[0].codes.length;
      const places = {};  // a row is named by its record and its place in it, which a new record does not move
      this.ids = [...Array(this.count).keys()].map((row) => {
        if (!this.data.record) return String(row);
        const [key] = this.data.records[this.data.record[row]];
        places[key] = (places[key] ?? -1) + 1;
        return `${key}.${places[key]}`;
      });
      root.querySelector(".lm-static").hidden = true;
      this.build();
      this.read();
      addEventListener("hashchange", () => this.read());
    }

    build() {
      const titles = Object.entries(this.data.views).map(([title, view]) =>
        make("li", {}, make("a", {href: `#${new URLSearchParams(view)}`}, title)));
      if (titles.length > 1) this.root.append(make("ul", {class: "lm-views"}, ...titles));
      this.form = make("form", {class: "lm-controls"});
      this.form.addEventListener("submit", (event) => event.preventDefault());
      this.form.addEventListener("keydown", (event) => {
        const open = event.key === "Escape" && event.target.closest("details[open]");
        if (open) { open.open = false; open.querySelector("summary").focus(); }
      });
      for (const facet of this.facets) if (facet.levels.length > 1) this.form.append(this.chooser(facet));
      const names = (columns) => columns.map((column) => column.name);
      const choose = (name, label, from) => {
        const select = make("select", {name}, ...from.map((one) => make("option", {value: one}, one || "nothing")));
        select.addEventListener("change", () => this.write());
        this.form.append(make("label", {}, `${label} `, select));
      };
      choose("y", "show", names(this.measures));
      choose("x", "over", names(this.data.columns));
      choose("colour", "colour by", ["", ...names(this.facets)]);
      choose("panels", "a panel for each", ["", ...names(this.facets)]);
      const find = make("input", {type: "search", name: "find", size: 12});
      find.addEventListener("input", () => this.write());
      this.form.append(make("label", {}, "find ", find), button("Clear", () => { location.hash = "y=" + this.state.get("y"); }));
      this.status = make("p", {role: "status", "aria-live": "polite"});
      this.chart = make("div", {class: "lm-panels"});
      this.masks = make("div", {});
      this.layers = make("div", {class: "lm-layers"});
      this.list = make("div", {class: "lm-table", tabindex: 0, role: "region", "aria-label": `rows of ${this.data.name}`});
      this.again = make("details", {class: "lm-again"});
      this.root.append(this.form, this.status, this.chart, this.masks, this.layers, this.list, this.again);
    }

    chooser(facet) {
      const all = make("fieldset", {}, make("legend", {}, facet.name));
      facet.levels.forEach((level) => {
        const box = make("input", {type: "checkbox", name: facet.name, value: level});
        box.addEventListener("change", () => this.write());
        all.append(make("label", {}, box, ` ${level} `, make("span", {})));
      });
      return make("details", {}, make("summary", {}, facet.name, make("span", {})), all);
    }

    // Address -> controls
    read() {
      const given = location.hash.includes("=") ? location.hash.slice(1) : "";
      this.state = new URLSearchParams(given || Object.entries(this.view));
      for (const field of this.form.elements) {
        if (!field.name) continue;
        if (field.type === "checkbox") field.checked = this.state.getAll(field.name).includes(field.value);
        else field.value = this.state.get(field.name) || (given || field.name === "find" ? "" : this.view[field.name] || "");
        if (field.tagName === "SELECT" && field.selectedIndex < 0) field.selectedIndex = 0;
      }
      this.all = false;
      this.draw();
    }

    // Controls -> address
    write() {
      const next = new URLSearchParams();
      for (const field of this.form.elements) {
        if (field.name && field.value && (field.type !== "checkbox" || field.checked)) next.append(field.name, field.value);
      }
      for (const name of ["sort", "row"]) for (const value of this.state.getAll(name)) next.append(name, value);
      this.keep(next);
    }

    keep(next) {
      this.state = next;
      history.replaceState(null, "", `#${next}`);
      this.draw();
    }

    level(name, row) {
      const column = this.columns.get(name);
      return column.levels ? (column.codes[row] < 0 ? null : column.levels[column.codes[row]]) : column.numbers[row];
    }

    // Rows that pass every filter but the one of the facet `but`
    rows(but) {
      const wanted = this.facets.map((facet) => [facet, this.state.getAll(facet.name)])
        .filter(([facet, values]) => values.length && facet.name !== but)
        .map(([facet, values]) => [facet.codes, new Set(values.map((value) => facet.levels.indexOf(value)))]);
      const words = (this.state.get("find") || "").toLowerCase().split(/\s+/).filter(Boolean);
      return [...Array(this.count).keys()].filter((row) => wanted.every(([codes, set]) => set.has(codes[row]))
        && (!words.length || words.every((word) => this.text(row).includes(word))));
    }

    text(row) {
      const record = this.data.records && this.data.records[this.data.record[row]];
      return [...this.facets.map((facet) => this.level(facet.name, row)), record && record[0]].join(" ").toLowerCase();
    }

    draw() {
      for (const details of this.form.querySelectorAll("details")) {
        const boxes = [...details.querySelectorAll("input")], facet = this.columns.get(boxes[0].name);
        const counts = facet.levels.map(() => 0), chosen = boxes.filter((box) => box.checked).map((box) => box.value);
        for (const row of this.rows(facet.name)) if (facet.codes[row] >= 0) counts[facet.codes[row]] += 1;
        boxes.forEach((box, at) => { box.nextElementSibling.textContent = `(${counts[at]})`; });
        details.querySelector("summary span").textContent = `: ${chosen.join(" or ") || "any"}`;
      }
      const rows = this.rows(), y = this.form.elements.y.value, x = this.form.elements.x.value;
      const drawn = rows.filter((row) => this.level(y, row) !== null && this.level(x, row) !== null);
      const values = drawn.map((row) => this.level(y, row));
      const range = values.length ? `; ${y} from ${written(values.reduce((a, b) => Math.min(a, b)))} to `
        + written(values.reduce((a, b) => Math.max(a, b))) : `; none has ${y} and ${x}`;
      this.status.textContent = `${rows.length} of ${this.count} results chosen, ${drawn.length} drawn${range}.`;
      this.panels(drawn, x, y);
      this.pictures(rows);
      this.bars();
      this.table(rows);
      this.redo(rows);
    }

    panels(rows, x, y) {
      const colour = this.form.elements.colour.value, by = this.form.elements.panels.value;
      const levels = by ? this.columns.get(by).levels.filter((one) => rows.some((row) => this.level(by, row) === one)) : [null];
      const shared = this.axis(y, rows), own = OWN.includes(by);  // perplexities of two texts have no common axis
      const across = this.axis(x, rows), wide = levels.length === 1 && this.root.clientWidth > 560;
      const names = colour ? this.columns.get(colour).levels : [];
      const shown = names.filter((name) => rows.some((row) => this.level(colour, row) === name));
      const places = new Map(), taken = shown.map((name) => this.data.looks[name]);
      for (const name of shown) if (name in this.data.looks) places.set(name, this.data.looks[name]);
      for (let next = 0, at = 0; at < shown.length; next += 1) {
        while (at < shown.length && places.has(shown[at])) at += 1;
        if (at < shown.length && !taken.includes(next)) places.set(shown[at], next);
      }
      const look = (name) => places.get(name) ?? 0;
      this.chart.innerHTML = rows.length ? levels.slice(0, PANELS).map((level) => {
        const inside = by ? rows.filter((row) => this.level(by, row) === level) : rows;
        const scale = {x: across, y: own ? this.axis(y, inside) : shared};
        return this.panel(inside, scale, wide, {x, y, colour, look}, level === null ? "" : `${by} ${level}`);
      }).join("") : "";
      const legend = shown.map((name) => `<li><svg width="14" height="12" aria-hidden="true"><g transform="translate(7 6)">`
        + `${this.mark(look(name))}</g></svg> ${escaped(name)}</li>`).join("");
      const more = levels.length > PANELS ? `<p>The first ${PANELS} of ${levels.length} panels.</p>` : "";
      this.chart.innerHTML += (legend ? `<ul class="lm-legend">${legend}</ul>` : "") + more;
    }

    mark(place) {
      const paint = this.data.palette[place % this.data.palette.length], hollow = place >= this.data.palette.length;
      const shape = place % MARKS.length;
      return `<path d="${MARKS[shape]}" stroke="${paint}" fill="${hollow ? "none" : paint}" stroke-width="1.5"/>`;
    }

    // {place: value -> 0 to 1, ticks: [[place, text]]}
    axis(name, rows) {
      const column = this.columns.get(name);
      if (column.levels) {
        const used = column.levels.filter((level) => rows.some((row) => this.level(name, row) === level));
        const place = (value) => (used.indexOf(value) + 0.5) / used.length;
        return {place, ticks: used.map((level) => [place(level), level]), levels: used};
      }
      const values = rows.map((row) => column.numbers[row]);
      let low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
      const least = values.filter((v) => v > 0).reduce((a, b) => Math.min(a, b), Infinity), floor = low === 0 ? least / 3 : low;
      const log = low >= 0 && high > 20 * least, ticks = log && low === 0 ? [0] : [];  // a 0 stands left of the least
      if (low === high) { low -= Math.abs(low) / 10 || 1; high += Math.abs(high) / 10 || 1; }
      const to = log ? (v) => Math.log10(Math.max(v, floor)) : (v) => v, a = to(low), b = to(high), pad = (b - a) * 0.05;
      const place = (value) => (to(value) - a + pad) / (b - a + 2 * pad);
      if (log) {
        const steps = b - a < 2.5 ? [1, 2, 5] : [1];
        for (let power = Math.floor(a); power <= b; power += Math.ceil((b - a) / 7)) {
          for (const step of steps) if (step * 10 ** power > (low === 0 ? 2 * floor : 0)) ticks.push(step * 10 ** power);
        }
      } else {
        const raw = (b - a) / 6, size = 10 ** Math.floor(Math.log10(raw));
        const step = [1, 2, 5, 10].map((one) => one * size).find((one) => one >= raw);
        for (let at = Math.ceil(a / step) * step; at <= b; at += step) ticks.push(+at.toPrecision(8));
      }
      return {place, ticks: ticks.filter((tick) => place(tick) >= 0 && place(tick) <= 1).map((tick) => [place(tick), written(tick)])};
    }

    panel(rows, scale, wide, {x, y, colour, look}, title) {
      const most = Math.max(...scale.x.ticks.map(([, text]) => Math.min(text.length, 17)), 0), w = wide ? 640 : 380;
      const long = most * scale.x.ticks.length > w / 8, room = long ? 5 * most : 0, h = 250 + room, left = 62, right = 8, top = title ? 22 : 8, bottom = 42 + room;
      const px = (value) => left + scale.x.place(value) * (w - left - right), py = (value) => h - bottom - scale.y.place(value) * (h - top - bottom);
      let inside = "";
      for (const [at, text] of scale.y.ticks) {
        const place = h - bottom - at * (h - top - bottom);
        inside += `<path d="M${left} ${place}H${w - right}" class="lm-grid"/><text x="${left - 5}" y="${place + 4}" text-anchor="end">${escaped(text)}</text>`;
      }
      for (const [at, text] of scale.x.ticks) {
        const place = left + at * (w - left - right), short = text.length > 17 ? text.slice(0, 16) + "…" : text;
        inside += long ? `<text transform="translate(${place + 3} ${h - bottom + 14}) rotate(-40)" text-anchor="end">${escaped(short)}</text>`
          : `<text x="${place}" y="${h - bottom + 16}" text-anchor="middle">${escaped(short)}</text>`;
      }
      const groups = new Map(), stops = scale.x.levels || unique(rows.map((row) => this.level(x, row))).sort((a, b) => a - b);
      for (const row of rows) {
        const name = colour ? this.level(colour, row) : null;
        groups.set(name, [...(groups.get(name) || []), row]);
      }
      for (const [name, members] of groups) {
        const paint = this.data.palette[look(name) % this.data.palette.length];
        if (stops.length <= STOPS) {
          const medians = stops.map((level) => [level, members.filter((row) => this.level(x, row) === level)
            .map((row) => this.level(y, row)).sort((a, b) => a - b)]).filter(([, values]) => values.length);
          const ordered = (level) => /^[-\d.]+(?![\d.:])/.test(level);  // 30% and 40%, not 2:4 or a name: what lies between
          const path = medians.map(([level, values], at) => `${at && ordered(level) && ordered(medians[at - 1][0]) ? "L" : "M"}`
            + `${px(level)} ${py(values[values.length >> 1])}`).join("");
          inside += `<path d="${path}" fill="none" stroke="${paint}" stroke-width="1.3"/>`;
        }
        for (const row of members) {
          inside += `<g transform="translate(${px(this.level(x, row)).toFixed(1)} ${py(this.level(y, row)).toFixed(1)})"><title>`
            + `${escaped(this.told(row))}: ${escaped(written(this.level(y, row)))}</title>${this.mark(look(name))}</g>`;
        }
      }
      const heading = title ? `<text x="${left}" y="14">${escaped(title)}</text>` : "";
      const axes = `<text x="${(w + left) / 2}" y="${h - 4}" text-anchor="middle">${escaped(x)}</text>`
        + `<text transform="translate(12 ${(h - bottom + top) / 2}) rotate(-90)" text-anchor="middle">${escaped(y)}</text>`;
      const label = `${title} ${y} over ${x}${colour ? `, a colour for each ${colour}` : ""}: ${rows.length} results; the table below lists them.`;
      return `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="${escaped(label.trim())}">${heading}${axes}${inside}</svg>`;
    }

    told(row) {
      return this.facets.map((facet) => this.level(facet.name, row)).filter((one) => one !== null).join(" · ");
    }

    // Masks of the rows that are chosen by the filters
    pictures(rows) {
      const {about, of} = this.data.pictures || {of: {}}, shown = rows.filter((row) => of[row]).map((row) => of[row]);
      this.masks.innerHTML = shown.length ? `<p>${escaped(about)}</p><div class="lm-masks">${shown.join("")}</div>` : "";
    }

    // Bars of each layer for the rows that are chosen in the table
    bars() {
      const chosen = this.state.getAll("row").map((id) => this.ids.indexOf(id)).filter((row) => this.data.bars && this.data.bars[row]);
      this.layers.innerHTML = chosen.slice(0, 6).map((row) => {
        const [label, place, values] = this.data.bars[row], names = this.data.layers[place];
        const top = Math.max(...values, 0), low = Math.min(...values, 0), tall = 90 / (top - low || 1), wide = 760 / values.length;
        const most = names[values.indexOf(Math.max(...values))];
        const alt = `${label}, ${values.length} layers, from ${written(Math.min(...values))} to ${written(top)} in ${most}`;
        const drawn = values.map((value, at) => `<rect x="${at * wide}" y="${95 - (Math.max(value, 0) - low) * tall}" width="${wide * 0.85}" `
          + `height="${Math.max(Math.abs(value) * tall, 0.5)}"><title>${escaped(names[at])}: ${written(value)}</title></rect>`).join("");
        const cells = values.map((value, at) => `<tr><td>${escaped(names[at])}</td><td class="n">${written(value)}</td></tr>`).join("");
        return `<figure><figcaption><strong>${escaped(label)}</strong>, ${escaped(this.told(row))}</figcaption>`
          + `<svg viewBox="0 0 760 100" role="img" aria-label="${escaped(alt)}">${drawn}</svg><details><summary>Numbers</summary>`
          + `<div class="lm-table lm-long" tabindex="0" role="region" aria-label="numbers of each layer"><table><thead><tr><th>layer</th><th>${escaped(label)}</th></tr></thead>`
          + `<tbody>${cells}</tbody></table></div></details></figure>`;
      }).join("");
    }

    table(rows) {
      const varied = this.facets.filter((facet) => unique(rows.map((row) => facet.codes[row])).length > 1);
      const shown = [...varied, ...this.measures.filter((one) => rows.some((row) => one.numbers[row] !== null))];
      const sort = this.state.get("sort") || "", sign = sort.startsWith("-") ? -1 : 1, by = sort.replace(/^-/, "");
      const ordered = this.columns.has(by) ? [...rows].sort((a, b) => compare(this.level(by, a), this.level(by, b), sign)) : rows;
      const heads = shown.map((column) => {
        const now = column.name === by ? (sign > 0 ? "ascending" : "descending") : "";
        const head = make("th", {scope: "col", class: column.numbers ? "n" : "", ...(now && {"aria-sort": now})});
        head.append(button(column.name, () => {
          const next = new URLSearchParams(this.state);
          if (now === "descending") next.delete("sort"); else next.set("sort", (now ? "-" : "") + column.name);
          this.keep(next);
          [...this.list.querySelectorAll("th button")].find((one) => one.textContent === column.name)?.focus();
        }, {class: "lm-sort"}));
        return head;
      });
      const body = make("tbody", {}), chosen = this.state.getAll("row");
      for (const row of this.all ? ordered : ordered.slice(0, ROWS)) {
        const cells = shown.map((column) => make("td", column.numbers ? {class: "n"} : {},
          column.numbers ? written(column.numbers[row]) : this.level(column.name, row) ?? "–"));
        if (this.data.record) cells.push(make("td", {}, make("code", {}, this.data.records[this.data.record[row]][0])));
        if (this.data.bars) {
          const pressed = chosen.includes(this.ids[row]);
          cells.push(make("td", {}, this.data.bars[row] ? button("layers", () => this.toggle(this.ids[row]), {"aria-pressed": pressed, "data-row": this.ids[row]}) : "–"));
        }
        body.append(make("tr", {}, ...cells));
      }
      if (this.data.record) heads.push(make("th", {scope: "col"}, "record"));
      if (this.data.bars) heads.push(make("th", {scope: "col"}, "each layer"));
      const same = this.facets.filter((facet) => !varied.includes(facet) && rows.length && this.level(facet.name, rows[0]) !== null)
        .map((facet) => `${facet.name} ${this.level(facet.name, rows[0])}`).join(", ");
      const about = `${Math.min(rows.length, this.all ? Infinity : ROWS)} of ${rows.length} results.${same ? ` The same in every row: ${same}.` : ""}`;
      this.list.replaceChildren(make("table", {}, make("caption", {}, make("span", {}, about)), make("thead", {}, make("tr", {}, ...heads)), body));
      if (rows.length > ROWS && !this.all) this.list.append(button(`Show all ${rows.length}`, () => { this.all = true; this.draw(); this.list.focus(); }));
    }

    toggle(id) {
      const next = new URLSearchParams(this.state), rows = next.getAll("row");
      next.delete("row");
      for (const one of rows.includes(id) ? rows.filter((other) => other !== id) : [...rows, id]) next.append("row", one);
      this.keep(next);
      this.list.querySelector(`[data-row="${id}"]`)?.focus();
    }

    redo(rows) {
      this.again.hidden = !this.data.records;
      if (this.again.hidden) return;
      const found = unique(rows.map((row) => this.data.record[row])).map((place) => this.data.records[place]);
      const keys = found.map(([key]) => key), kinds = unique(found.map(([, kind]) => kind));
      const pages = this.columns.has("page") ? unique(rows.map((row) => this.level("page", row))).filter((page) => /^\d/.test(page)) : [];
      const parts = [make("summary", {}, `Redo these (${keys.length} record${keys.length === 1 ? "" : "s"})`)];
      const code = (text) => make("pre", {tabindex: 0}, make("code", {}, text));
      if (keys.length && keys.length <= 20) parts.push(make("p", {}, "Compute again and compare, number by number:"), code(`lmcompress redo ${keys.join(" ")}`));
      if (kinds.length === 1) {
        const file = this.sweep(kinds[0], found.map(([, , pairs]) => Object.fromEntries(pairs.map((one) => this.data.pairs[one]))));
        const link = make("a", {download: `${kinds[0]}.yaml`, href: `data:text/yaml;charset=utf-8,${encodeURIComponent(file)}`}, `${kinds[0]}.yaml`);
        parts.push(make("p", {}, "As a sweep, to change and to run: ", link, " with ", make("code", {}, `lmcompress sweep ${kinds[0]}.yaml`)), code(file));
      } else parts.push(make("p", {}, "Choose one kind to have a sweep file of these."));
      if (this.data.link && pages.length && pages.length <= 4) {
        parts.push(make("p", {}, "On Colab: ", ...pages.flatMap((page) => [make("a", {href: this.data.link.replace("PAGE", page)}, page), " "])));
      }
      this.again.replaceChildren(...parts);
    }

    // A sweep file of just these runs: a grid where they are all combinations of their values, else one after the other
    sweep(kind, runs) {
      const values = new Map(Object.keys(runs[0]).map((name) => [name, unique(runs.map((run) => JSON.stringify(run[name])))]));
      const varied = [...values].filter(([, found]) => found.length > 1);
      const line = (pairs) => pairs.map(([name, text]) => `${name}: ${text}`).join(", ");
      const head = `experiment: ${kind}\nfixed: {${line([...values].filter(([, found]) => found.length === 1).map(([name, [text]]) => [name, text]))}}\n`;
      if (varied.reduce((product, [, found]) => product * found.length, 1) === runs.length) {
        return head + (varied.length ? `grid: {${line(varied.map(([name, found]) => [name, `[${found.join(", ")}]`]))}}\n` : "");
      }
      return `${head}runs:\n${runs.map((run) => `  - {${line(varied.map(([name]) => [name, JSON.stringify(run[name])]))}}\n`).join("")}`;
    }
  }

  function start() {
    document.querySelectorAll("section.lm-explorer").forEach((root) => new Explorer(root));
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
})();
