/* What every page does once it can be read. */
"use strict";

// A box that scrolls must be reachable with the keyboard. Whether it scrolls changes with its size,
// and with the fonts of what is in it.
function mark(box) {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}
document.addEventListener("DOMContentLoaded", () => {
  const boxes = document.querySelectorAll(
    ".bd-article div.math, .bd-article div.math mjx-container, .bd-article .cell_output pre, .bd-article div.highlight pre, .bd-article .pst-scrollable-table-container",
  );
  const observer = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target)));
  for (const box of boxes) observer.observe(box);
  document.fonts.addEventListener("loadingdone", () => boxes.forEach(mark));
});

// Sections out of sight are laid out after the page is shown (book.css holds them back), one at a
// time; at once when the reader was sent to a place among them, which must not move afterwards.
window.addEventListener("load", () => {
  const sections = [...document.querySelectorAll(".bd-article > section > section")];
  const show = (section) => section?.style.setProperty("content-visibility", "visible");
  const later = window.requestIdleCallback ?? ((task) => setTimeout(task, 50));
  const next = () => {
    show(sections.shift());
    if (sections.length) later(next);
  };
  if (!location.hash) return later(next);
  sections.forEach(show);
  document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
});

// The signs of a formula are drawn, not written, so copying would lose them: copy its TeX.
document.addEventListener("copy", (event) => {
  const selection = getSelection();
  if (!selection.rangeCount || !event.clipboardData) return;
  const copied = selection.getRangeAt(0).cloneContents();
  const formulas = copied.querySelectorAll("mjx-container");
  if (!formulas.length) return;
  for (const formula of formulas) {
    const tex = formula.querySelector("annotation")?.textContent ?? "";
    const sign = formula.hasAttribute("display") ? "$$" : "$";
    formula.replaceWith(sign + tex + sign);
  }
  event.clipboardData.setData("text/plain", copied.textContent);
  event.preventDefault();
});

// The page's policy forbids handlers that stand in attributes.
document.addEventListener("click", (event) => {
  if (event.target.closest('[data-action="print"]')) window.print();
});
