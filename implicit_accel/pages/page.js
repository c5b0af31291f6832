// For printing, everything that is folded is opened; afterwards it is as it was.
"use strict";
(() => {
  let opened = [];
  window.matchMedia("print").addEventListener("change", (event) => {
    if (event.matches) {
      opened = [...document.querySelectorAll("details:not([open])")];
      for (const part of opened) part.open = true;
    } else {
      for (const part of opened) part.open = false;
    }
  });
})();
