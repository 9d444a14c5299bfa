document.querySelectorAll("table.sortable").forEach((table) => {
  table.querySelectorAll("th").forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = table.tBodies[0];
      const key = (row) => row.cells[index].dataset.sort;
      const order = (one, other) => {
        const [a, b] = [key(one), key(other)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const difference = a - b;
        return (Number.isNaN(difference) ? a.localeCompare(b) : difference) * (descending ? -1 : 1);
      };
      [...body.rows].sort(order).forEach((row) => body.append(row));
    });
  });
});
document.querySelectorAll(".copy").forEach((button) => {
  const code = button.parentElement.querySelector("pre");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
});
