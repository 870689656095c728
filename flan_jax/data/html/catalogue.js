"use strict";
// Text of a dataset reaches the page as text nodes and attribute values only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  // What Python's str.strip() removes; String.trim() differs in a few characters.
  const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
  const LEADING = new RegExp("^" + SPACE), TRAILING = new RegExp(SPACE + "$");
  const FIELD_STYLES = 6; // .f0 to .f5
  const LONG = 900, HEAD = 500, TAIL = 200; // characters of a field, and of what is shown of a long one at first

  const byId = (id) => document.getElementById("page-" + id);
  const number = (value) => value.toLocaleString("en");
  const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
  const spaced = (name) => name.replaceAll("_", " ");

  function element(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  // Rendering: as flan_jax.data.templates.render joins and strips.

  function pieces(segments, valueOf) {
    const found = [];
    for (const [text, field] of segments) {
      found.push({ text, field: null });
      if (field !== null) found.push({ text: valueOf(field), field });
    }
    strip(found, LEADING);
    strip(found.reverse(), TRAILING);
    return found.reverse();
  }

  function strip(list, space) {
    for (const piece of list) {
      piece.text = piece.text.replace(space, "");
      if (piece.text) return;
    }
  }

  function fieldClass(dataset, field) {
    if (field === "answer" || field === "options") return "field " + field;
    return "field f" + (dataset.fields.indexOf(field) % FIELD_STYLES);
  }

  function fieldText(dataset, piece, cut) {
    const span = element("span", { className: fieldClass(dataset, piece.field), title: piece.field });
    const text = Array.from(piece.text); // by code points, so that no character is cut in two
    if (text.length > LONG) {
      const hidden = text.slice(HEAD, text.length - TAIL).join("");
      const more = element("button", { type: "button", className: "more" },
        `… ${plural(text.length - HEAD - TAIL, "more character")} …`);
      more.addEventListener("click", () => more.replaceWith(hidden));
      span.append(text.slice(0, HEAD).join(""), more, text.slice(-TAIL).join(""));
    } else {
      span.append(piece.text);
    }
    if (cut) span.append(element("em", { className: "cut" }, ` [and ${plural(cut, "character")} that this page leaves out]`));
    return span;
  }

  function side(dataset, name, segments, valueOf, cuts, tokens) {
    const text = element("div", { className: "text", dir: "auto" });
    for (const piece of pieces(segments, valueOf)) {
      if (piece.field === null) text.append(piece.text);
      else if (piece.text) text.append(fieldText(dataset, piece, cuts[piece.field]));
    }
    const label = element("div", { className: "label" }, name);
    if (tokens !== null) label.append(element("span", { className: "tokens" }, plural(tokens, "token")));
    return element("div", { className: name }, label, text);
  }

  function rendered(dataset, template, row, index) {
    const tokens = template.tokens[index];
    const valueOf = (field) => row.fields[field];
    return element("section", { className: "row" },
      element("h4", {}, `${row.split}, row ${number(row.index)}`),
      side(dataset, "inputs", template.inputs, valueOf, row.cut, tokens[0]),
      side(dataset, "targets", template.targets, valueOf, row.cut, tokens[1]));
  }

  function pattern(dataset, template) {
    const valueOf = (field) => `{${field}}`;
    return element("div", { className: "row" },
      side(dataset, "inputs", template.inputs, valueOf, {}, null),
      side(dataset, "targets", template.targets, valueOf, {}, null));
  }

  function templateCard(dataset, template, index) {
    const id = `${dataset.name}_type_${index}`;
    const heading = element("h3", {}, element("a", { href: "#" + encodeURIComponent(id) }, id));
    if (template.reversed) heading.append(" ", element("span", { className: "badge reversed" }, "⇄ reversed"));
    const card = element("article", { id, className: "template" }, heading);
    if (dataset.rows.length) {
      const rows = dataset.rows.map((row, i) => rendered(dataset, template, row, i));
      card.append(element("div", { className: "rows" }, ...rows));
      card.append(element("details", { className: "pattern" },
        element("summary", {}, "Pattern"), pattern(dataset, template)));
    } else {
      card.append(pattern(dataset, template));
    }
    return card;
  }

  // A dataset: a summary line at once, the rest when it is opened.

  function facts(dataset) {
    const list = element("dl", {});
    const fact = (name, ...value) => list.append(element("div", {}, element("dt", {}, name), element("dd", {}, ...value)));
    fact("TFDS", element("code", {}, dataset.tfds_name));
    for (const split of dataset.splits) {
      const rows = split.rows === null ? "not there" : plural(split.rows, "row");
      fact(spaced(split.name), element("code", {}, split.slice), ` ${rows}`);
    }
    fact("published", `${plural(dataset.published, "row")} to train on`);
    fact("metrics", dataset.metrics.join(", "));
    const choices = new Set(dataset.rows.map((row) => row.choices.join(" · ")).filter(Boolean));
    if (choices.size) fact(choices.size === 1 ? "options" : "options, which differ by row", Array.from(choices).join(" | "));
    for (const row of dataset.rows.filter((row) => row.num_accepted > 1)) {
      const others = row.num_accepted - row.accepted.length;
      fact(`accepted, row ${number(row.index)}`, row.accepted.join(" · ") + (others ? ` and ${number(others)} more` : ""));
    }
    if (dataset.rationale) fact("targets", "give the reasoning before the answer");
    return list;
  }

  function legend(dataset) {
    const list = element("p", { className: "legend" }, "Fields: ");
    for (const field of dataset.fields) list.append(element("span", { className: fieldClass(dataset, field) }, field), " ");
    return list;
  }

  function build(entry) {
    if (entry.cards) return;
    const { dataset } = entry;
    const note = dataset.missing
      ? [element("p", { className: "note" }, `No rows to show: ${dataset.missing}. `,
        element("code", {}, `flan data doctor ${dataset.name}`), " says what to do.")]
      : [];
    entry.cards = dataset.templates.map((template, index) => templateCard(dataset, template, index));
    entry.details.append(element("div", { className: "body" }, ...note, facts(dataset), legend(dataset), ...entry.cards));
    showCards(entry);
  }

  function showCards(entry) {
    entry.cards?.forEach((card, index) => { card.hidden = !entry.matches[index]; });
  }

  function summary(dataset) {
    const reversed = dataset.templates.filter((template) => template.reversed).length;
    const count = plural(dataset.templates.length, "template") + (reversed ? `, ${reversed} reversed` : "");
    return element("summary", {},
      element("strong", {}, dataset.name), " ",
      element("span", { className: "badge " + dataset.kind }, dataset.kind), " ",
      ...(dataset.missing ? [element("span", { className: "badge missing" }, "no data"), " "] : []),
      element("span", { className: "quiet" }, `${dataset.tfds_name} · ${count}`));
  }

  const entries = [];
  for (const cluster of data.clusters) {
    const section = element("section", { className: "cluster" }, element("h2", {}, spaced(cluster.name)));
    for (const dataset of cluster.datasets) {
      const details = element("details", { id: dataset.name, className: "dataset" }, summary(dataset));
      const rows = dataset.rows.map((row) => row.fields);
      const lower = (value) => value.toLowerCase();
      const entry = {
        dataset, cluster: cluster.name, section, details, cards: null, matches: dataset.templates.map(() => true),
        about: lower([dataset.name, cluster.name, spaced(cluster.name), dataset.tfds_name, ...dataset.metrics].join("\n")),
        values: new Map(dataset.fields.map((field) => [field, lower(rows.map((fields) => fields[field]).join("\n"))])),
        patterns: dataset.templates.map((t) => lower([...t.inputs, ...t.targets].map(([text]) => text).join("\n"))),
        used: dataset.templates.map((t) => [...t.inputs, ...t.targets].map(([, field]) => field).filter(Boolean)),
      };
      details.addEventListener("toggle", () => { if (details.open) build(entry); });
      section.append(details);
      entries.push(entry);
    }
    byId("list").append(section);
    byId("cluster").append(element("option", { value: cluster.name }, spaced(cluster.name)));
  }

  // Filters: kept in the address, so that a view can be passed on.

  const FILTERS = ["q", "cluster", "kind", "templates"];

  function apply() {
    const [q, cluster, kind, direction] = FILTERS.map((name) => byId(name).value);
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    let datasets = 0, shown = 0, all = 0;
    for (const entry of entries) {
      const fits = (!cluster || entry.cluster === cluster) && (!kind || entry.dataset.kind === kind);
      entry.matches = entry.dataset.templates.map((template, index) =>
        fits && (!direction || template.reversed === (direction === "reversed")) && words.every((word) =>
          entry.about.includes(word) || entry.patterns[index].includes(word)
          || entry.used[index].some((field) => entry.values.get(field).includes(word))));
      const count = entry.matches.filter(Boolean).length;
      entry.details.hidden = count === 0;
      datasets += count > 0;
      shown += count;
      all += entry.matches.length;
      showCards(entry);
    }
    for (const section of new Set(entries.map((entry) => entry.section))) {
      section.hidden = !section.querySelector("details.dataset:not([hidden])");
    }
    byId("count").textContent = datasets
      ? `${number(datasets)} of ${plural(entries.length, "dataset")}, ${number(shown)} of ${plural(all, "template")}`
      : "Nothing fits; clear a filter or search for fewer words.";
  }

  function setFilters(values) {
    for (const name of FILTERS) byId(name).value = values.get(name) ?? "";
    // A select has no value that is not among its options: it would filter everything out without saying why.
    for (const name of FILTERS.slice(1)) if (byId(name).selectedIndex < 0) byId(name).value = "";
    apply();
  }

  function remember() {
    const values = new URLSearchParams(FILTERS.map((name) => [name, byId(name).value]).filter(([, value]) => value));
    history.replaceState(null, "", "#" + values);
  }

  // "#rte" opens a dataset, "#rte_type_3" a template, "#q=weather&cluster=nli" sets filters.
  function follow() {
    const raw = location.hash.slice(1);
    if (raw.includes("=")) return setFilters(new URLSearchParams(raw));
    let id = raw;
    try { id = decodeURIComponent(raw); } catch { /* a % that escapes nothing is meant as itself */ }
    const entry = entries.find(({ dataset }) => dataset.name === id)
      ?? entries.find(({ dataset }) => dataset.templates.some((_, index) => `${dataset.name}_type_${index}` === id));
    if (!entry) return apply();
    build(entry);
    entry.details.open = true;
    apply();
    const target = document.getElementById(id);
    // Whoever follows a link wants to see where it leads, whatever is filtered.
    if (target.hidden || entry.details.hidden) setFilters(new URLSearchParams());
    target.scrollIntoView();
    target.tabIndex = -1; // else the browser takes the focus away when it goes to the address's fragment
    target.focus({ preventScroll: true });
  }

  function openAll(open) {
    for (const entry of entries) {
      if (entry.details.hidden) continue;
      if (open) build(entry);
      entry.details.open = open;
    }
  }

  const form = byId("filters");
  form.addEventListener("input", () => { apply(); remember(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => { event.preventDefault(); setFilters(new URLSearchParams()); remember(); });
  byId("open").addEventListener("click", () => openAll(true));
  byId("close").addEventListener("click", () => openAll(false));
  window.addEventListener("hashchange", follow);
  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof Element && event.target.closest("input, select");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    byId("q").focus();
  });

  const { name, size, stand_ins: standIns } = data.vocabulary;
  const visible = (text) => ({ "\n": "line break", "\t": "tab", " ": "space" })[text] ?? text;
  byId("about").append(
    `${plural(data.clusters.length, "cluster")}, ${plural(entries.length, "dataset")}. Tokens are counted with `,
    element("code", {}, name), ` (${number(size)} pieces), the end of each side included. `,
    `At most ${number(data.train_cap)} rows of a dataset are trained on. `,
    "⇄ marks templates that ask for the question instead of the answer.",
    standIns.length
      ? ` What this vocabulary has no piece for, the model reads as: ${standIns.map((pair) => pair.map(visible).join(" → ")).join(", ")}.`
      : "");
  follow();
})();
