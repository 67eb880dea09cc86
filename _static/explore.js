// Sliders for the figures made by `dmflib.explore`.
//
// Each figure carries its frames as JSON: fragments of SVG, and for every slot of the drawing a
// table that says which fragment belongs to which position of the sliders. Nothing is computed
// here; a moved slider puts other fragments into the slots that depend on it.

"use strict";

(() => {
  function enliven(figure) {
    const source = figure.querySelector(":scope > script[type='application/json']");
    const svg = figure.querySelector(":scope > svg");
    const panel = figure.querySelector(":scope > .dmf-explorer-controls");
    if (!source || !svg || !panel || !panel.hidden) return;

    const data = JSON.parse(source.textContent);
    const shape = data.texts.map((texts) => texts.length);
    const sentence = figure.querySelector(".dmf-explorer-sentence");
    const slots = [...svg.querySelectorAll("[data-slot]")].map((element) => ({
      element,
      table: data.slots[Number(element.dataset.slot)],
      shown: null,
    }));
    const controls = [...panel.querySelectorAll(".dmf-explorer-control")].map((row) => ({
      label: row.querySelector("label"),
      input: row.querySelector("input"),
      output: row.querySelector("output"),
    }));

    // The entry of a table for the sliders' present positions.
    function entry(table) {
      let index = 0;
      for (const axis of table.axes) {
        index = index * shape[axis] + controls[axis].input.valueAsNumber;
      }
      return table.entries[index];
    }

    function show() {
      controls.forEach(({ input, output }, axis) => {
        const text = data.texts[axis][input.valueAsNumber];
        output.textContent = text;
        input.setAttribute("aria-valuetext", `${data.labels[axis]} = ${text}`);
      });
      for (const slot of slots) {
        const number = entry(slot.table);
        if (number !== slot.shown) {
          slot.element.innerHTML = data.fragments[number].replaceAll("#_", `#${figure.id}-`);
          slot.shown = number;
        }
      }
      svg.setAttribute("aria-label", entry(data.alt));
      if (sentence) sentence.textContent = entry(data.sentence);
    }

    controls.forEach(({ label, input, output }, axis) => {
      // The same explorer twice on a page: every label must still name its own slider.
      if (document.getElementById(input.id) !== input) {
        let copy = 2;
        while (document.getElementById(`${input.id}-${copy}`)) copy += 1;
        input.id = label.htmlFor = `${input.id}-${copy}`;
        output.setAttribute("for", input.id);
      }
      // Room for the longest value, so that a slider keeps its length while it moves.
      const width = Math.max(...data.texts[axis].map((text) => text.length));
      output.style.minWidth = `${width}ch`;
      input.addEventListener("input", show);
    });
    show();
    panel.hidden = false;
  }

  function enlivenAll() {
    document.querySelectorAll("figure.dmf-explorer").forEach(enliven);
  }

  if (document.readyState === "loading") {
    document.addEventListener("DOMContentLoaded", enlivenAll);
  } else {
    enlivenAll();
  }
})();
