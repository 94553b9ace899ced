// What moves: the server sends a section of the page again whenever it has changed. It stops while the tab is hidden
// and while the reader has stopped it, and waits while something is being pressed.
import { offerCopies } from "./copies.js";
import { takeChildren } from "./morph.js";
import { showTimes } from "./times.js";

let source = null;
let stopped = false;
let state = null;

function tell(text) {
  if (state) state.textContent = text;
}

// Sections that came while something was pressed, by id.
const held = new Map();
let isPressed = false;

function place(id, html) {
  if (isPressed) { held.set(id, html); return; }
  const section = document.getElementById(id);
  if (!section) return;
  const parsed = document.createElement("template");
  parsed.innerHTML = html;
  showTimes(parsed.content);
  offerCopies(parsed.content);
  takeChildren(section, parsed.content, (row) => {
    row.classList.remove("changed");
    void row.offsetWidth; // so that it lights up once more
    row.classList.add("changed");
  });
}

// Nothing moves from under the pointer between its press and its release, or the click would be lost.
function holdWhilePressed() {
  const release = () => {
    if (!isPressed) return;
    isPressed = false;
    for (const [id, html] of held) place(id, html);
    held.clear();
  };
  document.addEventListener("pointerdown", (event) => { isPressed = event.isPrimary && event.button === 0; }, true);
  // The click comes after the release.
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => setTimeout(release), true);
  // One that was released outside of the window.
  document.addEventListener("pointermove", (event) => { if (event.buttons === 0) release(); }, true);
}

function open() {
  if (source || stopped || document.hidden) return;
  source = new EventSource(location.href);
  source.addEventListener("open", () => tell("Live"));
  source.addEventListener("section", (event) => {
    const { id, html } = JSON.parse(event.data);
    place(id, html);
  });
  source.addEventListener("age", (event) => {
    tell(event.data === "old" ? "Old: the bridge cannot read its database" : "Live");
  });
  source.addEventListener("error", () => {
    tell("Not live; trying again");
    if (source?.readyState !== EventSource.CLOSED) return;
    close();
    // The session may have ended: the page itself says so. Otherwise it is tried again.
    setTimeout(async () => {
      const page = await fetch(location.href, { redirect: "manual" }).catch(() => null);
      if (page?.type === "opaqueredirect") location.reload();
      else open();
    }, 5000);
  });
}

function close() {
  source?.close();
  source = null;
}

export function followLive() {
  const main = document.querySelector("main[data-live-page]");
  if (!main) return;
  const bar = document.createElement("div");
  bar.className = "live-bar";
  state = document.createElement("span");
  state.className = "live-state";
  state.setAttribute("role", "status");
  const toggle = document.createElement("button");
  toggle.type = "button";
  toggle.dataset.liveToggle = "";
  toggle.textContent = "Pause live";
  toggle.addEventListener("click", () => {
    stopped = !stopped;
    toggle.textContent = stopped ? "Go live" : "Pause live";
    toggle.setAttribute("aria-pressed", String(stopped));
    if (stopped) { close(); tell("Paused"); } else { open(); }
  });
  bar.append(state, toggle);
  main.prepend(bar);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { close(); tell("Paused while hidden"); } else { open(); }
  });
  window.addEventListener("pagehide", close);
  holdWhilePressed();
  open();
}
