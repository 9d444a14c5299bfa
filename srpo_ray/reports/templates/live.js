(() => {
  const age = document.getElementById("age");
  const { written, text, late, lateS, intervalS } = age.dataset;
  const folds = [...document.querySelectorAll("details")];
  const tables = [...document.querySelectorAll("table.sortable")];
  const heads = (table) => [...table.querySelectorAll("th")];
  const saved = history.state || {};
  (saved.folds || []).forEach((open, index) => { if (folds[index]) folds[index].open = open; });
  (saved.sorts || []).forEach(([column, direction], index) => {
    const head = tables[index] && heads(tables[index])[column];
    if (!head) return;
    head.querySelector("button").click();
    if (direction === "descending") head.querySelector("button").click();
  });
  const sort = (table) => {
    const column = heads(table).findIndex((head) => head.hasAttribute("aria-sort"));
    return [column, column < 0 ? "" : heads(table)[column].getAttribute("aria-sort")];
  };
  const keep = () => history.replaceState({ top: scrollY, folds: folds.map((fold) => fold.open), sorts: tables.map(sort) }, "");
  const duration = (seconds) => {
    if (seconds < 100) return `${seconds} s`;
    return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
  };
  const started = Date.now();
  const show = () => {
    const seconds = Math.max(0, Math.round(Date.now() / 1000 - written));
    const isLate = seconds > lateS;
    age.classList.toggle("warning", isLate);
    age.textContent = `Written ${duration(seconds)} ago. ${isLate ? late : text}`;
    // A reader who marks text keeps it, and a tab in the background loads when it is looked at.
    if (Date.now() - started < intervalS * 1000 || document.hidden || String(getSelection())) return;
    keep();
    location.reload();
  };
  addEventListener("pagehide", keep);
  document.addEventListener("visibilitychange", show);
  show();
  history.scrollRestoration = "manual";
  scrollTo(0, saved.top || 0);
  setInterval(show, 1000);
})();
