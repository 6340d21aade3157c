"use strict";
// Shows the parts of the chosen block and level. Without a script the page shows those that were asked for.
{
  const block = document.getElementById("block");
  const level = document.getElementById("level");
  const name = document.getElementById("block-name");
  const show = () => {
    for (const part of document.querySelectorAll("[data-block], [data-level]")) {
      const own = part.dataset;
      const is_chosen =
        (own.block === undefined || own.block === block.value) && (own.level === undefined || own.level === level.value);
      if (part.hasAttribute("data-mark")) {
        part.classList.toggle("chosen", is_chosen);
      } else {
        part.hidden = !is_chosen;
      }
    }
    name.textContent = block.value;
  };
  block.addEventListener("input", show);
  level.addEventListener("input", show);
  document.getElementById("controls").hidden = false;
  show(); // a browser that goes back may have kept another choice
}
