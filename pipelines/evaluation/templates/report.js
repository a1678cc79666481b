"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const PAGE = { terms: 20, utterances: 25 };

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// What a word is recognised by: no capitals, nothing around it.
const key = (word) => word.toLowerCase().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
// In scripts without spaces each character is a word, with the marks behind it.
const UNSPACED = "\\p{sc=Han}\\p{sc=Hira}\\p{sc=Kana}\\p{sc=Thai}";
const WORD = new RegExp(`[${UNSPACED}][^\\p{L}\\p{N}\\s]*|[^\\s${UNSPACED}]+`, "gu");
const SPACED = new RegExp(`[^${UNSPACED}]$`, "u");
const words = (text) => text.match(WORD) || [];

// The fewest changes from what was said to what was heard: [kind, said, heard], kind one of = ~ + -
function align(said, heard) {
  const a = said.map(key), b = heard.map(key), cost = [];
  for (let i = 0; i <= a.length; i++) {
    cost.push(new Array(b.length + 1));
    for (let j = 0; j <= b.length; j++) {
      if (!i || !j) { cost[i][j] = i + j; continue; }
      cost[i][j] = Math.min(cost[i - 1][j - 1] + (a[i - 1] !== b[j - 1]), cost[i - 1][j] + 1, cost[i][j - 1] + 1);
    }
  }
  const steps = [];
  for (let i = a.length, j = b.length; i || j;) {
    if (i && j && cost[i][j] === cost[i - 1][j - 1] + (a[i - 1] !== b[j - 1])) {
      i--; j--;
      steps.push([a[i] === b[j] ? "=" : "~", said[i], heard[j]]);
    } else if (i && cost[i][j] === cost[i - 1][j] + 1) {
      steps.push(["-", said[--i], ""]);
    } else {
      steps.push(["+", "", heard[--j]]);
    }
  }
  return steps.reverse();
}

function aligned(said, heard) {
  const line = element("dd");
  for (const [kind, was, is] of align(words(said), words(heard))) {
    if (kind === "=") line.append(is);
    else if (kind === "~") { const wrong = element("mark", is); wrong.title = `said: ${was}`; line.append(wrong); }
    else if (kind === "+") { const added = element("ins", is); added.title = "not said"; line.append(added); }
    else { const lost = element("del", was); lost.title = "not heard"; line.append(lost); }
    if (SPACED.test(key(is || was))) line.append(" ");
  }
  if (!heard.trim()) line.append(element("i", said.trim() ? " (nothing heard)" : "(nothing)"));
  return line;
}

function withTerms(text, terms) {
  const line = element("dd"), escaped = terms.map((term) => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const parts = terms.length ? text.split(new RegExp(`(${escaped.join("|")})`, "i")) : [text];
  parts.forEach((part, index) => line.append(index % 2 ? element("b", part) : part));
  return line;
}

function utterance(row) {
  const card = element("div", undefined, "utterance");
  const facts = [row.set, row.voice, row.accent, row.snr !== "unknown" && `SNR ${row.snr}`, `${row.seconds} s`,
    `WER ${Math.round(100 * row.errors)} %`];
  card.append(element("small", facts.filter(Boolean).join(" · ")));
  const flac = DATA.audio[`${row.set}/${row.id}`];
  if (flac) {
    const player = element("audio");
    player.controls = true; player.preload = "none"; player.src = `data:audio/flac;base64,${flac}`;
    card.append(player);
  }
  const list = element("dl");
  list.append(element("dt", "said"), withTerms(row.said, row.terms));
  for (const model of ["before", "after"])
    if (row[model] !== undefined) list.append(element("dt", DATA.compared ? model : "heard"), aligned(row.said, row[model]));
  card.append(list);
  return card;
}

// A list that shows one page at a time, so that ten thousand rows cost no more than fifty.
function paged(root, rows, size, render) {
  const state = { rows, page: 0 };
  const body = root.querySelector("[data-body]"), count = root.querySelector(".count");
  const [back, on] = root.querySelectorAll("button[data-turn]");
  function draw() {
    const last = Math.max(Math.ceil(state.rows.length / size) - 1, 0);
    state.page = Math.min(Math.max(state.page, 0), last);
    const start = state.page * size, shown = state.rows.slice(start, start + size);
    body.replaceChildren(...shown.map(render));
    count.textContent = state.rows.length
      ? `${start + 1}–${start + shown.length} of ${state.rows.length}` : "none";
    back.disabled = state.page === 0; on.disabled = state.page === last;
  }
  back.onclick = () => { state.page--; draw(); };
  on.onclick = () => { state.page++; draw(); };
  return (rows) => { state.rows = rows; state.page = 0; draw(); };
}

function options(select, values) {
  const distinct = [...new Set(values)].filter(Boolean).sort();
  for (const value of distinct) select.append(new Option(value, value));
  select.hidden = distinct.length < 2;
}

function terms() {
  const root = document.getElementById("terms");
  const columns = ["term", "category", "set", "trained", "said",
    ...(DATA.compared ? ["before_heard"] : []), "after_heard", "after_close", "after_inserted", "recall", "instead"];
  const values = { recall: (row) => row.after_recall ? row.after_recall[0] : 2, instead: (row) => row.instead.join() };
  const of = (row, column) => (values[column] || ((row) => row[column]))(row);
  const show = paged(root, DATA.terms, PAGE.terms, (row) => {
    const line = element("tr");
    for (const column of columns) {
      let text = row[column] ?? "–", style = ["category", "set"].includes(column) ? "left" : "";
      if (column === "recall") {
        const shares = row.after_recall && row.after_recall.map((share) => Math.round(100 * share));
        text = shares ? `${shares[0]} % (${shares[1]}–${shares[2]})` : "–";
        if (shares && shares[2] < 60) style = "worse";
      }
      if (column === "instead") { text = row.instead.join(", "); style = "left wrap"; }
      line.append(element("td", text, style));
    }
    return line;
  });
  const search = root.querySelector("input"), set = root.querySelector("select");
  options(set, DATA.terms.map((row) => row.set));
  let order = null, down = false;
  function update() {
    const wanted = search.value.trim().toLowerCase();
    let rows = DATA.terms.filter((row) => (!set.value || row.set === set.value)
      && (row.term.toLowerCase().includes(wanted) || row.category.toLowerCase().includes(wanted)));
    if (order) {
      const direction = down ? -1 : 1;
      rows = [...rows].sort((a, b) => {
        const x = of(a, order) ?? -1, y = of(b, order) ?? -1;
        return direction * (typeof x === "string" ? x.localeCompare(y) : x - y);
      });
    }
    show(rows);
  }
  root.querySelectorAll("th button").forEach((button) => button.onclick = () => {
    const column = button.dataset.column, head = button.closest("th");
    down = order === column ? !down : false;
    order = column;
    root.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    update();
  });
  search.oninput = set.onchange = update;
  update();
}

function utterances() {
  const root = document.getElementById("utterances");
  DATA.utterances.forEach((row, number) => { row.number = number; });
  const show = paged(root, DATA.utterances, PAGE.utterances, utterance);
  const filters = [...root.querySelectorAll("select[data-filter]")];
  for (const filter of filters) options(filter, DATA.utterances.map((row) => row[filter.dataset.filter]));
  const audio = root.querySelector("input[type=checkbox]"), search = root.querySelector("input[type=search]");
  const sort = root.querySelector("select[data-sort]");
  const orders = {
    worst: (a, b) => a.number - b.number,
    best: (a, b) => a.errors - b.errors,
    longest: (a, b) => b.seconds - a.seconds,
  };
  function update() {
    const wanted = search.value.trim().toLowerCase();
    const rows = DATA.utterances.filter((row) =>
      filters.every((filter) => !filter.value || row[filter.dataset.filter] === filter.value)
      && (!audio.checked || DATA.audio[`${row.set}/${row.id}`])
      && (!wanted || `${row.said} ${row.before ?? ""} ${row.after}`.toLowerCase().includes(wanted)));
    show(rows.sort(orders[sort.value]));
  }
  [...filters, audio, sort].forEach((control) => control.onchange = update);
  search.oninput = update;
  update();
}

const note = document.getElementById("left-out");
note.hidden = !DATA.left_out;
note.textContent = `The ${DATA.left_out} utterances with the fewest errors are in heard.parquet alone.`;
terms();
utterances();
