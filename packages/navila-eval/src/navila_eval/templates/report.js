"use strict";
const chosen = { show: "all", outcome: "all" };

function refresh() {
  let shown = 0;
  for (const card of document.querySelectorAll("article")) {
    const fits = (chosen.show === "all" || card.dataset.section === chosen.show)
      && (chosen.outcome === "all" || card.classList.contains(chosen.outcome));
    card.hidden = !fits;
    shown += fits;
  }
  for (const section of document.querySelectorAll("section"))
    section.hidden = chosen.show !== "all" && section.dataset.section !== chosen.show;
  document.getElementById("count").textContent = shown + (shown === 1 ? " episode" : " episodes");
}

for (const button of document.querySelectorAll("nav button"))
  button.addEventListener("click", () => {
    const kind = "show" in button.dataset ? "show" : "outcome";
    chosen[kind] = button.dataset[kind];
    for (const other of button.parentElement.children) other.classList.toggle("on", other === button);
    refresh();
  });

// Pointing at a frame marks on the map where it was taken.
document.addEventListener("pointerover", (event) => {
  const frame = event.target.closest(".frame");
  if (!frame) return;
  const here = frame.closest("article").querySelector(".here");
  if (!here) return;
  here.setAttribute("cx", frame.dataset.x);
  here.setAttribute("cy", frame.dataset.y);
});

// Clicking a map shows the whole floor, clicking again the close-up.
for (const map of document.querySelectorAll(".map svg"))
  map.addEventListener("click", () => {
    const shown = map.getAttribute("viewBox");
    map.setAttribute("viewBox", map.dataset.other);
    map.dataset.other = shown;
  });

refresh();
