// Fetches this page again while something may change, and shows what is new. What was ticked stays ticked.
"use strict";
(() => {
  const main = document.querySelector("main");
  const told = document.querySelector(".told");
  let known = main.innerHTML;
  const again = async () => {
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = page.querySelector("main");
      const pressed = main.querySelector(":active"); // a click must end where it began
      if (answer.ok && found && !pressed && found.innerHTML !== known) {
        known = found.innerHTML;
        const ticked = new Set([...main.querySelectorAll("input:checked")].map((box) => box.value));
        const focus = document.activeElement?.value;
        main.innerHTML = known;
        for (const box of main.querySelectorAll("input")) box.checked = ticked.has(box.value);
        [...main.querySelectorAll("input, button")].find((each) => each.value === focus)?.focus();
      }
      told.textContent = answer.ok ? "" : `the server says: ${answer.status}`;
    } catch {
      told.textContent = "the server does not answer";
    }
    setTimeout(again, 1000);
  };
  setTimeout(again, 1000);
})();
