function find() {
  const word = document.getElementById("find").value.toLowerCase();
  const which = document.getElementById("which").value;
  let found = 0;
  for (const sample of document.querySelectorAll(".sample")) {
    const fits = (!which || sample.classList.contains(which)) && sample.textContent.toLowerCase().includes(word);
    sample.hidden = !fits;
    found += fits;
  }
  document.getElementById("found").textContent = found + " shown";
}
for (const id of ["find", "which"]) document.getElementById(id)?.addEventListener("input", find);
if (document.getElementById("find")) find();
