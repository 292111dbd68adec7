// Painting the week of a schedule. Without it the grid is a form of numbers, and works.
//
// A rate is chosen by its number; dragging over hours gives it to them, and so does a tap. With the keys: arrows go from
// hour to hour, a digit gives a rate, the names of days and hours paint all of theirs.
"use strict";

(() => {
  const form = document.getElementById("week");
  if (form === null) return;
  const rows = [...form.querySelectorAll(".hours tbody tr")].map((row) => [...row.querySelectorAll("input")]);
  const all = rows.flat();

  const colour = (cell) => {
    cell.className = /^[1-9]$/.test(cell.value) ? "r" + cell.value : "";
  };
  form.addEventListener("reset", () => setTimeout(() => all.forEach(colour)));
  // What a browser kept from before a reload.
  all.forEach(colour);
  if (form.hasAttribute("data-still")) return;

  let brush = "1";
  let painting = false;
  const rates = [...form.querySelectorAll(".rate")].filter((rate) => rate.querySelector(".swatch"));

  const choose = (number) => {
    brush = number;
    rates.forEach((rate, index) => {
      const chosen = String(index + 1) === number;
      rate.classList.toggle("chosen", chosen);
      rate.querySelector("button").setAttribute("aria-pressed", String(chosen));
    });
  };

  // Each number becomes a button that chooses it.
  rates.forEach((rate, index) => {
    const number = String(index + 1);
    const swatch = rate.querySelector(".swatch");
    const button = document.createElement("button");
    button.type = "button";
    button.className = swatch.className;
    button.textContent = number;
    button.setAttribute("aria-label", "Paint with rate " + number);
    button.addEventListener("click", () => choose(number));
    swatch.replaceWith(button);
    // A button is not to stand in the label of another field.
    const frame = document.createElement("span");
    frame.className = rate.className;
    rate.replaceWith(frame);
    frame.append(button, rate);
    rate.className = "";
    rates[index] = frame;
  });

  const paint = (cell) => {
    if (!(cell instanceof HTMLInputElement) || !all.includes(cell)) return;
    cell.value = brush;
    colour(cell);
  };

  const under = (event) => {
    const found = document.elementFromPoint(event.clientX, event.clientY);
    return found !== null && found.tagName === "TD" ? found.firstElementChild : found;
  };

  const table = form.querySelector(".hours");
  let touched = false;
  table.addEventListener("pointerdown", (event) => {
    const cell = under(event);
    if (event.button !== 0 || !all.includes(cell)) return;
    // A finger that drags moves the table; one that taps paints, and wants no keyboard over it.
    touched = event.pointerType === "touch";
    if (touched) {
      cell.inputMode = "none";
      return;
    }
    painting = true;
    paint(cell);
  });
  table.addEventListener("click", (event) => {
    if (touched) paint(event.target);
  });
  table.addEventListener("pointermove", (event) => {
    if (painting) paint(under(event));
  });
  ["pointerup", "pointercancel"].forEach((end) => addEventListener(end, () => {
    painting = false;
  }));
  table.addEventListener("dragstart", (event) => event.preventDefault());

  const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  table.addEventListener("keydown", (event) => {
    const at = all.indexOf(event.target);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const width = rows[0].length;
    const [day, hour] = [Math.floor(at / width), at % width];
    if (event.key in move) {
      const [down, right] = move[event.key];
      const row = rows[(day + down + rows.length) % rows.length];
      row[(hour + right + width) % width].focus();
      event.preventDefault();
    } else if (/^[1-9]$/.test(event.key)) {
      event.target.value = event.key;
      colour(event.target);
      event.preventDefault();
    } else if (event.key === " ") {
      paint(event.target);
      event.preventDefault();
    }
  });
  table.addEventListener("input", (event) => colour(event.target));

  // The names of days and hours paint all of theirs.
  const named = (head, cells, name) => {
    const button = document.createElement("button");
    button.type = "button";
    // What is seen comes first: whoever speaks to a browser says that.
    button.setAttribute("aria-label", head.textContent.trim() + ": paint all of " + name);
    button.append(...head.childNodes);
    button.addEventListener("click", () => cells.forEach(paint));
    head.append(button);
  };
  form.querySelectorAll(".hours tbody th").forEach((head, day) => {
    named(head, rows[day], head.querySelector("abbr").title);
  });
  form.querySelectorAll(".hours thead th").forEach((head, hour) => {
    named(head, rows.map((row) => row[hour]), head.textContent + ":00");
  });

  // One hour is in the order of the tabulator, the arrows lead to the others.
  all.forEach((cell, at) => {
    cell.tabIndex = at === 0 ? 0 : -1;
    cell.addEventListener("focus", () => {
      all.forEach((other) => { other.tabIndex = -1; });
      cell.tabIndex = 0;
      cell.select();
    });
  });

  form.classList.add("painting");
  form.querySelectorAll(".help").forEach((help) => { help.hidden = false; });
  choose("1");
})();
