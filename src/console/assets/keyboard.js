// Keys: "/" goes to the first filter, "p" stops and starts what moves, "g" and a letter go to a page, "?" tells.
const pages = { o: "/console/", b: "/console/board", w: "/console/webhooks", d: "/console/deliveries",
  e: "/console/explain", s: "/console/sources", a: "/console/audit" };
let wentTo = false;

function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName));
}

export function listenForKeys() {
  document.addEventListener("keydown", (event) => {
    if (isTyping(event.target) || event.ctrlKey || event.altKey || event.metaKey) return;
    if (wentTo) {
      wentTo = false;
      if (event.key in pages) location.assign(pages[event.key]);
    } else if (event.key === "/") {
      const field = document.querySelector(".filters input, .filters select");
      if (field) { event.preventDefault(); field.focus(); }
    } else if (event.key === "p") {
      document.querySelector("[data-live-toggle]")?.click();
    } else if (event.key === "g") {
      wentTo = true;
    }
  });
}
