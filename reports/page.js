"use strict";
// Sorting by a click on a heading; a heading is a button, so the keyboard works without more code.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort === undefined ? cell.textContent.trim() : cell.dataset.sort;
  };
  const compare = (a, b, numeric) => (numeric ? Number(a) - Number(b) : a.localeCompare(b));
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const first = heading.dataset.kind === "number" ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = heading.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows];
      rows.sort((left, right) => {
        const a = value(left, column);
        const b = value(right, column);
        if (a === "" || b === "") return (a === "") - (b === ""); // the unknown comes last either way
        return sign * compare(a, b, heading.dataset.kind === "number");
      });
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      body.append(...rows);
    });
  });
}
