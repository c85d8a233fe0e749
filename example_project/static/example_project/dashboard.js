/* The parts of the dashboard that are more than a value: bars, the switch, the list, the state of the connection. */

import { status, watch } from "../dref_django/dref.js";

for (const form of document.forms) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const response = await fetch(form.action, {
      method: "POST",
      body: new FormData(form),
      headers: { "X-Requested-With": "fetch" },
    });
    if (!response.ok) location.reload();
  });
}

const shop = document.getElementById("maintenance");
watch("demo.maintenance", (closed) => shop.setAttribute("aria-checked", String(closed)));

watch("demo.moods", (moods) => {
  const most = Math.max(1, ...Object.values(moods));
  for (const bar of document.querySelectorAll("[data-mood]")) {
    bar.style.inlineSize = `${(100 * moods[bar.dataset.mood]) / most}%`;
  }
});

const list = document.getElementById("activity");
watch("demo.activity", (lines) => {
  list.replaceChildren(
    ...(lines.length ? lines : ["nothing yet"]).map((line) => {
      const item = document.createElement("li");
      item.textContent = line;
      return item;
    }),
  );
});

const shown = document.getElementById("status");
const words = { connected: "live", connecting: "connecting", reconnecting: "connection lost, trying again", idle: "idle" };

function showStatus() {
  shown.textContent = status.state === "connected" && status.stale ? "live, but values may be old" : words[status.state];
  shown.dataset.state = status.state;
}

document.addEventListener("dref:status", showStatus);
showStatus();

document.addEventListener("dref:change", ({ target }) => {
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
    target.animate([{ color: "var(--accent)" }, {}], { duration: 600, easing: "ease-out" });
  }
});
