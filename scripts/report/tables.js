// Tables of the page, which are sorted by any column.

/** Number at the beginning of a cell; text, or nothing, where there is none. */
function keyOf(cell) {
  const words = cell.firstChild?.textContent.trim() ?? "";
  const number = Number.parseFloat(words.replace(/^< /, ""));
  return Number.isNaN(number) ? words : number;
}

function compare(one, other, direction) {
  const isNumber = [typeof one === "number", typeof other === "number"];
  if (isNumber[0] !== isNumber[1]) return isNumber[0] ? -1 : 1; // what has no number comes last
  return direction * (isNumber[0] ? one - other : one.localeCompare(other));
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", { type: "button", title: "Sort by this column" }, ...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort(
        (one, other) => compare(keyOf(one.cells[column]), keyOf(other.cells[column]), direction),
      ));
    });
  });
}
