"use strict";
(() => {
  const line = document.getElementById("refresh");
  const words = document.createElement("span");
  const button = document.createElement("button");
  let paused = false;
  button.type = "button";
  line.append(words, " ", button);
  const say = (text) => {
    if (words.textContent !== text) words.textContent = text;
    button.textContent = paused ? "Resume updates" : "Pause updates";
  };
  button.addEventListener("click", () => {
    paused = !paused;
    say(paused ? "Paused" : "Updating");
  });
  const look = async () => {
    if (paused || document.hidden) return;
    try {
      const answer = await fetch(location.origin + "/", { cache: "no-store", signal: AbortSignal.timeout(8000) });
      if (!answer.ok) throw new Error(answer.status);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      const old = document.querySelector("main");
      if (paused) return;
      const focused = [...old.querySelectorAll("a, [tabindex]")].indexOf(document.activeElement);
      const scrolled = [...old.querySelectorAll(".scrolls")].map((one) => one.scrollLeft);
      old.replaceChildren(...next.querySelector("main").childNodes);
      old.querySelectorAll(".scrolls").forEach((one, at) => { one.scrollLeft = scrolled[at] || 0; });
      if (focused >= 0) old.querySelectorAll("a, [tabindex]")[focused]?.focus({ preventScroll: true });
      document.title = next.title;
      say("Updating");
    } catch (error) {
      say("The agent does not answer; trying again");
    }
  };
  say("Updating");
  setInterval(look, 3000);
})();
