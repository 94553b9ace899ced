// What moves: the server sends a section of the page again whenever it has changed. It stops while the tab is hidden
// and while the reader has stopped it; rows that are the same stay where they are, with their focus.
import { showTimes } from "./times.js";

let source = null;
let stopped = false;
let state = null;

function tell(text) {
  if (state) state.textContent = text;
}

// Puts new rows in the place of old ones, by their ids; anything else is replaced whole.
function place(section, html) {
  const parsed = document.createElement("template");
  parsed.innerHTML = html;
  showTimes(parsed.content);
  const [before, now] = [section.querySelector("tbody"), parsed.content.querySelector("tbody")];
  const alike = before && now && section.querySelectorAll("tbody").length === 1
    && [...now.rows].every((row) => row.id) && parsed.content.querySelectorAll("tbody").length === 1
    && section.childElementCount === parsed.content.childElementCount;
  if (!alike) {
    section.replaceChildren(parsed.content);
    return;
  }
  const known = new Map([...before.rows].map((row) => [row.id, row]));
  [...now.rows].forEach((row, at) => {
    const old = known.get(row.id);
    let stays = row;
    if (old && sameBut(old, row)) { stays = old; moveQuietly(old, row); }
    else if (old) { row.classList.add("changed"); old.replaceWith(row); }
    known.delete(row.id);
    if (before.rows[at] !== stays) before.insertBefore(stays, before.rows[at] ?? null);
  });
  for (const row of known.values()) row.remove();
}

// Times that move by themselves, such as the last sign of life, move on in a row that stays.
function moveQuietly(old, now) {
  const times = now.querySelectorAll("time[data-quiet]");
  old.querySelectorAll("time[data-quiet]").forEach((time, at) => { time.dateTime = times[at].dateTime; });
  showTimes(old);
}

// Whether two rows say the same; how long ago a time was is counted here, not there.
function sameBut(old, now) {
  const text = (row) => {
    const copy = row.cloneNode(true);
    copy.classList.remove("changed");
    if (!copy.className) copy.removeAttribute("class");
    for (const time of copy.querySelectorAll("time")) time.replaceChildren(time.dateTime);
    for (const time of copy.querySelectorAll("time[data-quiet]")) { time.replaceChildren(); time.dateTime = ""; }
    for (const time of copy.querySelectorAll("time")) time.removeAttribute("title");
    return copy.outerHTML;
  };
  return text(old) === text(now);
}

function open() {
  if (source || stopped || document.hidden) return;
  source = new EventSource(location.href);
  source.addEventListener("open", () => tell("Live"));
  source.addEventListener("section", (event) => {
    const { id, html } = JSON.parse(event.data);
    const section = document.getElementById(id);
    if (section) place(section, html);
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
  open();
}
