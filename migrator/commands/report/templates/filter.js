"use strict";
// Filters the table of runs. Without it the table is whole.
const form = document.getElementById("find");
if (form) {
  const rows = [...document.querySelectorAll("#runs-table tbody tr")];
  const texts = rows.map((row) => row.cells[0].textContent.toLowerCase());
  const shown = document.getElementById("found");
  const filter = () => {
    const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row, n) => {
      const fits = words.every((word) => texts[n].includes(word)) &&
        (!form.result.value || row.dataset.result === form.result.value);
      row.hidden = !fits;
      count += fits;
    });
    shown.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} runs`;
  };
  let waiting;
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  filter();
}
