// The report's table: which rows it shows, in which order, and the same as CSV. What it shows is in
// the page's address, see state.js. Without this script all rows are there.
"use strict";
(() => {
  document.documentElement.classList.add("scripts");

  function copy(button) {
    const said = button.textContent;
    const show = (words) => {
      button.textContent = words;
      setTimeout(() => { button.textContent = said; }, 1500);
    };
    // A file's page may have no clipboard: then a selection takes its place.
    const select = () => {
      const field = document.createElement("textarea");
      field.value = button.dataset.copy;
      document.body.append(field);
      field.select();
      const done = document.execCommand("copy");
      field.remove();
      button.focus();
      return done ? Promise.resolve() : Promise.reject(new Error("no clipboard"));
    };
    const written = navigator.clipboard
      ? navigator.clipboard.writeText(button.dataset.copy).catch(select)
      : select();
    written.then(() => show("Copied"), () => show("Copy by hand"));
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copy(button));
  }

  const key = "verdicts";
  const part = document.getElementById(key);
  const form = part.querySelector("form");
  const table = part.querySelector("table");
  const heads = [...table.tHead.rows[0].cells];
  const names = heads.map((head) => head.textContent);
  const rows = [...table.tBodies[0].rows];
  const inputs = [...form.querySelectorAll("select, input")];
  let order = ""; // a column's name, with a minus before it if from the end

  // What a cell is sorted by: the number of an effect, the order of the report for claims.
  function weight(row, column) {
    if (column === 0) return rows.indexOf(row);
    const text = row.cells[column].textContent;
    if (!names[column].startsWith("effect")) return text || "\uffff";
    const number = /: (-?[\d.,]+(?:e[+-]?\d+)?|∞|−∞)/.exec(text);
    if (!number) return Infinity;
    return number[1] === "∞" ? 1e300 : Number(number[1].replaceAll(",", ""));
  }

  function compare(a, b) {
    return typeof a === "number" ? a - b : a.localeCompare(b);
  }

  function values() {
    const shown = Object.fromEntries(inputs.map((input) => [input.name, input.value.trim()]));
    return { ...shown, sort: order };
  }

  function matches(row, wanted) {
    return inputs.every((input) => {
      const value = wanted[input.name];
      if (!value) return true;
      if (input.name !== "words") return row.dataset[input.name] === value;
      const text = row.textContent.toLowerCase();
      return value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
    });
  }

  function show() {
    const wanted = values();
    for (const row of rows) row.hidden = !matches(row, wanted);
    const down = order.startsWith("-");
    const column = Math.max(names.indexOf(down ? order.slice(1) : order), 0);
    const sorted = [...rows].sort((a, b) => compare(weight(a, column), weight(b, column)));
    table.tBodies[0].append(...(down ? sorted.reverse() : sorted));
    heads.forEach((head, i) => {
      if (i !== column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
    const count = rows.filter((row) => !row.hidden).length;
    form.querySelector('[role="status"]').textContent = `${count} of ${rows.length} claims`;
  }

  function changed() {
    show();
    window.pageState.write(key, values());
  }

  function csv() {
    const quote = (text) => `"${text.replaceAll('"', '""')}"`;
    const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    const lines = [names, ...shown.map((row) => [...row.cells].map((cell) => cell.textContent))];
    return lines.map((line) => line.map(quote).join(",")).join("\r\n") + "\r\n";
  }

  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = names[i];
    button.addEventListener("click", () => {
      order = order === names[i] ? `-${names[i]}` : names[i];
      changed();
    });
    head.replaceChildren(button);
  });
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => {
    order = "";
    changed();
  }));
  form.querySelector("[data-csv]").addEventListener("click", (event) => {
    const link = document.createElement("a");
    // By the mark at the start spreadsheets see that the text is Unicode.
    link.href = URL.createObjectURL(new Blob(["\ufeff", csv()], { type: "text/csv" }));
    link.download = event.target.dataset.csv;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
  show();
  window.pageState.listen(key, (wanted) => {
    for (const input of inputs) {
      input.value = wanted[input.name] ?? "";
      if (input.selectedIndex === -1) input.value = ""; // no such answer
    }
    order = names.includes((wanted.sort ?? "").replace(/^-/, "")) ? wanted.sort : "";
    show();
  });
})();
