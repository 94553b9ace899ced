// A form whose answer shows on this page, which must not be left: it shows a secret that nobody can ask for again.
import { offerCopies } from "./copies.js";
import { showTimes } from "./times.js";

let source = null;

function show(place, section) {
  showTimes(section);
  if (!section.querySelector("button.copy")) offerCopies(section);
  place.replaceChildren(section);
  if (section.querySelector("[data-done]")) { source?.close(); source = null; }
}

// Sends the form, and follows the live section of the page that it leads to.
async function send(form, place) {
  source?.close();
  place.textContent = "Sending…";
  const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const section = page.querySelector("[data-live]");
  if (!section) {
    place.replaceChildren(...(page.querySelector("main")?.querySelectorAll(".alert") ?? []));
    return;
  }
  show(place, document.importNode(section, true));
  if (section.querySelector("[data-done]")) return;
  source = new EventSource(answer.url);
  source.addEventListener("section", (event) => {
    const { id, html } = JSON.parse(event.data);
    const now = document.createElement("div");
    now.id = id;
    now.innerHTML = html;
    show(place, now);
  });
}

export function answerHere() {
  for (const form of document.querySelectorAll("form[data-answer]")) {
    const place = document.getElementById(form.dataset.answer);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send(form, place).catch(() => { place.textContent = "The bridge does not answer."; });
    });
  }
}
