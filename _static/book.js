/* Small repairs that make every page work from the keyboard. */
"use strict";

// A box that scrolls must be reachable with the keyboard.
function makeScrollable() {
  const boxes = document.querySelectorAll(
    ".bd-article div.math, .bd-article .cell_output pre, .bd-article div.highlight pre, .bd-article .pst-scrollable-table-container",
  );
  for (const box of boxes) {
    const scrolls = box.scrollWidth > box.clientWidth + 1;
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

document.addEventListener("DOMContentLoaded", makeScrollable);
window.addEventListener("load", makeScrollable);
window.addEventListener("resize", makeScrollable);

// The page's policy forbids handlers that stand in attributes.
document.addEventListener("click", (event) => {
  if (event.target.closest('[data-action="print"]')) window.print();
});
