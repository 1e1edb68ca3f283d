// The page's own script: pieces that are asked for, answers that get better while one looks, and files that are sent.
"use strict";

const refused = (place, html) => {
  place.innerHTML = html;
  // What refuses the answer often refuses the layers, in the same words: once is enough.
  const above = [...document.querySelectorAll(".side .refusal")].map((one) => one.textContent);
  for (const one of document.querySelectorAll(".spine .refusal"))
    if (above.includes(one.textContent)) {
      one.className = "note";
      one.removeAttribute("role");
      one.textContent = "The same as above stands in the way here.";
    }
};

for (const section of document.querySelectorAll("[data-piece]")) {
  fetch(section.dataset.piece)
    .then((response) => response.text())
    .then((html) => (section.innerHTML = html))
    .catch(() => (section.textContent = "The page has ended: start onnx-attribution page again."))
    .finally(() => section.removeAttribute("aria-busy"));
}

for (const section of document.querySelectorAll("[data-stream]")) {
  const answer = section.querySelector(".answer");
  const progress = section.querySelector("progress");
  const source = new EventSource(section.dataset.stream);
  const ended = () => {
    source.close();
    progress.remove();
    section.removeAttribute("aria-busy");
  };
  source.addEventListener("progress", (event) => {
    const { done, planned } = JSON.parse(event.data);
    progress.max = Math.max(planned, 1);
    progress.value = done;
  });
  source.addEventListener("revision", (event) => {
    const { html, number } = JSON.parse(event.data);
    answer.innerHTML = html;
    section.dataset.revision = number;
  });
  source.addEventListener("final", (event) => {
    const { html, number } = JSON.parse(event.data);
    answer.innerHTML = html;
    section.dataset.final = number;
    ended();
  });
  source.addEventListener("refused", (event) => {
    refused(answer, JSON.parse(event.data).html);
    if (section.matches(".side")) document.querySelector("#export")?.remove(); // there is nothing to save
    ended();
  });
  source.onerror = () => {
    if (progress.isConnected) answer.append("The page has ended: start onnx-attribution page again.");
    ended();
  };
  addEventListener("pagehide", () => source.close());
}

const form = document.getElementById("form");
const uploaded = document.getElementById("uploaded");
const say = (message) => {
  uploaded.className = "wrong";
  uploaded.textContent = message;
};
// The files that were sent last, to which that of another input is added.
let group = /^[0-9a-f]{16}$/.exec(form?.elements.namedItem("input").value)?.[0];
const send = async (file) => {
  const [chosen] = file.files;
  const { field, input = "" } = file.dataset;
  if (!chosen) return;
  const most = Number(form.dataset.most);
  if (chosen.size > most)
    return say(
      `${chosen.name} is larger than the ${most / 2 ** 20} MiB that can be sent: send a part of it, such as fewer samples. A file in the folder of the model is read from there, whatever its size.`,
    );
  const wanted = new URLSearchParams({ model: form.dataset.model, name: chosen.name, field: field.replace("b.", ""), input });
  if (input && group) wanted.set("with", group);
  uploaded.className = "";
  uploaded.textContent = "…";
  const response = await fetch(`/upload?${wanted}`, { method: "POST", body: chosen });
  const answer = await response.json();
  uploaded.textContent = "";
  if (answer.html) return refused(uploaded, answer.html);
  if (field === "input") group = answer.key;
  if (answer.missing?.length) {
    uploaded.textContent = `Still needed: ${answer.missing.join(", ")}`;
    return undefined;
  }
  form.elements.namedItem(field).append(new Option(chosen.name, answer.key, true, true));
  const row = form.elements.namedItem("row");
  if (row && field === "input") row.value = 0;
  form.requestSubmit();
  return undefined;
};
for (const file of document.querySelectorAll("input[type=file]"))
  file.addEventListener("change", () => send(file).catch(() => say("The file could not be sent: the page has ended, or it is too large.")));

document.getElementById("netron")?.addEventListener("click", async () => {
  const response = await fetch("/netron", { method: "POST" });
  const answer = await response.json();
  if (answer.url) location.assign(answer.url);
  else refused(document.getElementById("netron-said"), answer.html);
});

// Whoever types an input means it.
document.getElementById("values")?.addEventListener("input", ({ target }) => {
  const select = form.elements.namedItem("input");
  const known = [...select.options].find((one) => one.value === "values");
  if (target.value && !known) select.append(new Option("what is typed below", "values"));
  if (target.value) select.value = "values";
});

// Fields that say nothing stay out of the address.
form?.addEventListener("formdata", (event) => {
  for (const [name, value] of [...event.formData]) if (value === "" || value instanceof File) event.formData.delete(name);
});
