// The page's own script: pieces that are asked for, answers that get better while one looks, and files that are sent.
"use strict";

const refused = (place, html) => {
  place.innerHTML = html;
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
const sent = new Map();
for (const file of document.querySelectorAll("input[type=file]")) {
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    const wanted = new URLSearchParams({ model: form.dataset.model, name: chosen.name, input: file.dataset.input });
    if (file.dataset.input && sent.has("key")) wanted.set("with", sent.get("key"));
    uploaded.textContent = "…";
    const response = await fetch(`/upload?${wanted}`, { method: "POST", body: chosen });
    const answer = await response.json();
    uploaded.textContent = "";
    if (!response.ok) return refused(uploaded, answer.html);
    sent.set("key", answer.key);
    if (answer.missing?.length) {
      uploaded.textContent = `Still needed: ${answer.missing.join(", ")}`;
      return undefined;
    }
    const select = form.elements.namedItem("input");
    select.append(new Option(chosen.name, answer.key, true, true));
    const row = form.elements.namedItem("row");
    if (row) row.value = 0;
    form.requestSubmit();
    return undefined;
  });
}

document.getElementById("netron")?.addEventListener("click", async () => {
  const response = await fetch("/netron", { method: "POST" });
  const answer = await response.json();
  if (response.ok) location.assign(answer.url);
  else refused(document.getElementById("netron-said"), answer.html);
});

// Fields that say nothing stay out of the address.
form?.addEventListener("formdata", (event) => {
  for (const [name, value] of [...event.formData]) if (value === "" || value instanceof File) event.formData.delete(name);
});
