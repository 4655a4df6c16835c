// A click on a heading sorts a table by that column: numbers by value, all else as text. For tables
// of class "sortable", and those of cells with the tag "sortable".
(() => {
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    // A number may be followed by its unit, its interval, a mark or a whole: "78.2 (74.4–81.6)".
    const found = text.match(/^([−+-]?[\d,]+(?:\.\d+)?)(?=$|\s?%| \(| of |\s?[†*])/);
    return found ? parseFloat(found[1].replace(/,/g, "").replace("−", "-")) : text;
  };
  const compare = (a, b) =>
    typeof a === typeof b && typeof a === "number"
      ? a - b
      : typeof a === typeof b
        ? a.localeCompare(b, undefined, { numeric: true })
        : typeof a === "number"
          ? -1
          : 1;
  const prepare = (table) => {
    const headings = [...(table.tHead?.rows[0]?.cells ?? [])];
    headings.forEach((heading, column) => {
      heading.tabIndex = 0;
      heading.setAttribute("role", "button");
      heading.title = "Sort";
      const sort = () => {
        const falling = heading.getAttribute("aria-sort") === "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const body = table.tBodies[0];
        [...body.rows]
          .sort((a, b) => (falling ? -1 : 1) * compare(value(a, column), value(b, column)))
          .forEach((row) => body.append(row));
      };
      heading.addEventListener("click", sort);
      heading.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          sort();
        }
      });
    });
  };
  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll("table.sortable, .tag_sortable table, .sortable table").forEach(prepare),
  );
})();
