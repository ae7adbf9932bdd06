// Sorting, filtering, copying and the theme. Every page is complete without it.
"use strict";

const THEME = "ssl-robustness-bench-theme";

function stored(value) {
  try {
    if (value !== undefined) localStorage.setItem(THEME, value);
    return localStorage.getItem(THEME);
  } catch {
    return null; // pages opened as files may have no storage
  }
}

// At once, while the head is read, so that no page flashes in the other theme.
if (stored()) document.documentElement.dataset.theme = stored();

function startTheme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const current = () => document.documentElement.dataset.theme || (system.matches ? "dark" : "light");
  const label = () => {
    const other = current() === "dark" ? "light" : "dark";
    button.textContent = other === "dark" ? "Dark" : "Light";
    button.setAttribute("aria-label", `Switch to the ${other} theme`);
  };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = current() === "dark" ? "light" : "dark";
    stored(document.documentElement.dataset.theme);
    label();
  });
  system.addEventListener("change", label);
  label();
  button.hidden = false;
}

function startCopying() {
  for (const block of document.querySelectorAll(".copyable")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", async () => {
      const code = block.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = "Copy"), 2000);
      } catch {
        getSelection().selectAllChildren(code); // no permission: the user can press Ctrl-C
        button.textContent = "Selected";
      }
    });
    block.append(button);
  }
}

function compare(a, b, column, sign) {
  const [x, y] = [a, b].map((row) => row.cells[column].dataset.sort);
  if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // absent comes last
  const [p, q] = [Number(x), Number(y)];
  return sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q);
}

// Without the row that names the block and the notes below it.
const dataRows = (body) => [...body.rows].filter((row) => !row.matches(".group, .notes"));

function sortBy(heading) {
  const table = heading.closest("table");
  const first = "ascending" in heading.dataset || heading.cellIndex === 0 ? "ascending" : "descending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  for (const body of table.tBodies) {
    const rows = dataRows(body);
    rows.sort((a, b) => compare(a, b, heading.cellIndex, order === "ascending" ? 1 : -1));
    body.rows[0].after(...rows);
  }
}

function startSorting() {
  for (const heading of document.querySelectorAll("table[data-filtered] thead th")) {
    if (!heading.closest("table").querySelector(`tbody [data-sort]:nth-child(${heading.cellIndex + 1})`)) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortBy(heading));
    heading.append(button);
  }
}

function filterRows(form) {
  const wanted = new FormData(form);
  const words = wanted.get("q").toLowerCase().split(/\s+/).filter(Boolean);
  let [shown, all] = [0, 0];
  for (const body of document.querySelectorAll("table[data-filtered] tbody")) {
    const group = Object.keys(body.dataset).every((key) => !wanted.get(key) || wanted.get(key) === body.dataset[key]);
    let any = false;
    for (const row of dataRows(body)) {
      row.text ??= `${body.rows[0].textContent} ${row.textContent}`.toLowerCase();
      row.hidden = !group || !words.every((word) => row.text.includes(word));
      any ||= !row.hidden;
      shown += !row.hidden;
      all += 1;
    }
    body.hidden = !any;
  }
  document.getElementById("count").textContent = `${shown} of ${all} rows`;
}

// The address holds the filters, so that a view can be shared.
function startFiltering() {
  const form = document.getElementById("filter");
  if (!form) return;
  const apply = () => {
    filterRows(form);
    const set = [...new FormData(form)].filter(([, value]) => value);
    history.replaceState(null, "", set.length ? `#${new URLSearchParams(set)}` : "#");
  };
  const restore = () => {
    const named = new URLSearchParams(location.hash.slice(1));
    for (const field of form.querySelectorAll("[name]")) {
      const value = named.get(field.name) ?? ""; // what the address does not name is not filtered
      const option = [...(field.options ?? [])].find((each) => each.value.toLowerCase() === value.toLowerCase());
      field.value = field.options ? (option?.value ?? "") : value;
    }
    filterRows(form);
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  addEventListener("hashchange", restore);
  restore();
  form.hidden = false;
}

document.addEventListener("DOMContentLoaded", () => {
  document.documentElement.classList.add("js");
  startTheme();
  startCopying();
  startSorting();
  startFiltering();
});
