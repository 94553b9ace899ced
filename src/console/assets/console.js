// Loaded by every page. Everything works without it but what moves.
import { showTimes } from "./times.js";
import { followLive } from "./live.js";
import { listenForKeys } from "./keyboard.js";
import { answerHere } from "./ping.js";

showTimes(document);
followLive();
listenForKeys();
answerHere();

// A login link: its form needs no second click.
document.querySelector("form[data-send]")?.requestSubmit();

// Code that can be copied.
for (const code of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  });
  code.after(button);
}
