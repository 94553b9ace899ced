// Loaded by every page. Everything works without it but what moves.
import { copyOnClick, offerCopies } from "./copies.js";
import { showTimes } from "./times.js";
import { followLive } from "./live.js";
import { listenForKeys } from "./keyboard.js";
import { answerHere } from "./ping.js";

showTimes(document);
offerCopies(document);
copyOnClick();
followLive();
listenForKeys();
answerHere();

// A login link: its form needs no second click.
document.querySelector("form[data-send]")?.requestSubmit();
