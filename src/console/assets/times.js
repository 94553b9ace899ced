// Times in the reader's zone, with UTC on hover, and without the date while it is today's; and times that say
// how long ago they were.
const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const ofToday = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });
let today = new Date().toDateString();
const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function ago(at) {
  const seconds = (at - Date.now()) / 1000;
  const [unit, length] = units.find(([, length]) => Math.abs(seconds) >= length) ?? units.at(-1);
  return relative.format(Math.trunc(seconds / length), unit);
}

function shown(at) {
  return (at.toDateString() === today ? ofToday : local).format(at);
}

export function showTimes(root) {
  for (const time of root.querySelectorAll("time[data-local], time[data-since]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    if ("since" in time.dataset) {
      time.title = `${local.format(at)} (${time.dateTime})`;
      time.textContent = ago(at);
    } else {
      time.title = time.dateTime;
      time.textContent = shown(at);
    }
  }
}

setInterval(() => {
  if (document.hidden) return;
  if (today !== new Date().toDateString()) {
    today = new Date().toDateString();
    showTimes(document);
  }
  for (const time of document.querySelectorAll("time[data-since]")) {
    const text = ago(new Date(time.dateTime));
    if (time.textContent !== text) time.textContent = text;
  }
}, 1000);

// A choice of zones: the reader's own is marked.
for (const select of document.querySelectorAll("select[data-own-offset]")) {
  const own = String(-new Date(`${select.dataset.ownOffset}T12:00`).getTimezoneOffset());
  for (const option of select.options) if (option.value === own) option.textContent += " (yours)";
}
