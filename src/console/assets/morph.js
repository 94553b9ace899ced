// Makes a part of the page what the server says it is now, and leaves every element that is the same where it is:
// with its focus, and with the pointer that is about to press it.

// What an element is known by: a button does not become the one of another form, nor a link another link.
const NAMES = ["id", "action", "href", "name"];

function isSame(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName
    && (one.nodeType !== Node.ELEMENT_NODE || NAMES.every((name) => one.getAttribute(name) === other.getAttribute(name)));
}

function takeAttributes(old, now) {
  for (const { name } of [...old.attributes]) {
    // The reader has opened what is folded; and what has changed is lit up for a while.
    const stays = (name === "open" && old.nodeName === "DETAILS") || (name === "class" && old.className === "changed");
    if (!stays && !now.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
}

function take(old, now, onChange) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  const changed = old.nodeName === "TR" && old.id && !saysTheSame(old, now);
  takeAttributes(old, now);
  takeChildren(old, now, onChange);
  if (changed) onChange(old);
}

// Gives an element the children of another one. `onChange` is told of rows with an id that say something else.
export function takeChildren(old, now, onChange) {
  const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  const wanted = [...now.childNodes];
  let at = old.firstChild;
  wanted.forEach((child, place) => {
    while (at && !isSame(at, child) && !wanted.slice(place).some((later) => isSame(at, later))) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
    const same = at && isSame(at, child) ? at : known.get(child.id);
    if (!same || !isSame(same, child)) {
      old.insertBefore(child, at);
    } else {
      take(same, child, onChange);
      if (same === at) at = at.nextSibling;
      else old.insertBefore(same, at);
    }
  });
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

// Whether two rows say the same; how long ago a time was is counted here, not there, and times that move by
// themselves, such as the last sign of life, change nothing.
function saysTheSame(old, now) {
  const text = (row) => {
    const copy = row.cloneNode(true);
    copy.removeAttribute("class");
    for (const time of copy.querySelectorAll("time")) {
      if ("quiet" in time.dataset) time.dateTime = "";
      time.replaceChildren(time.dateTime);
      time.removeAttribute("title");
    }
    return copy.outerHTML;
  };
  return text(old) === text(now);
}
