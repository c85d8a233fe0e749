/* The parts of the dashboard that are more than an element of dref.js: forms, bars, lists, the map of processes. */

import { compareAndSet, DRefError, increment, join, leave, status, watch } from "../dref_django/dref.js";

const find = (id) => document.getElementById(id);

/** An element with a text, and children. */
function make(tag, text = "", ...children) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

const shop = { closed: false, version: 0 };

/** What a form with that `data-change` does over the page's own connection. */
const changes = {
  click: () => increment("demo.clicks"),
  maintenance: () => compareAndSet("demo.maintenance", shop.version, !shop.closed),
};

/** Returns whether that settled it; else the form is posted. */
async function settled(name) {
  if (!changes[name] || status.state !== "connected") return false;
  try {
    await changes[name]();
    return true;
  } catch (error) {
    if (!(error instanceof DRefError)) throw error;
    // Else somebody was faster, or the page will show what came of it.
    return error.code !== "forbidden" && error.code !== "unavailable";
  }
}

for (const form of document.forms) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await settled(form.dataset.change)) return;
    const body = new FormData(form);
    for (const field of form.querySelectorAll("input:not([type=hidden])")) {
      field.value = "";
      field.dispatchEvent(new Event("input"));
    }
    const response = await fetch(form.action, { method: "POST", body, headers: { "X-Requested-With": "fetch" } });
    if (!response.ok) location.reload();
  });
}

watch("demo.maintenance", (closed, { version, deleted }) => {
  Object.assign(shop, { closed, version: deleted ? 0 : version });
  find("maintenance").setAttribute("aria-checked", String(closed));
});

/** Whoever has begun a message is in a room of its own, which all pages count. */
let isWriting = false;
function tell(writes) {
  if (writes === isWriting) return;
  isWriting = writes;
  (writes ? join : leave)("demo.writing").catch(console.warn);
}
find("text").addEventListener("input", ({ target }) => tell(target.value !== ""));
find("text").addEventListener("blur", () => tell(false));

watch("demo.moods", (moods) => {
  const most = Math.max(1, ...Object.values(moods));
  for (const bar of document.querySelectorAll("[data-mood]")) {
    bar.style.inlineSize = `${(100 * moods[bar.dataset.mood]) / most}%`;
  }
});

watch("demo.report", ({ progress, token }) => {
  find("progress").value = progress;
  find("progress").dataset.running = String(Boolean(token));
});

watch("demo.activity", (lines) => {
  find("activity").replaceChildren(...(lines.length ? lines : ["nothing yet"]).map((line) => make("li", line)));
});

watch("demo.chat", (messages) => {
  const log = find("log");
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  const lines = messages.map(({ by, text, at }) => make("li", "", make("b", by), " ", make("time", at), make("span", text)));
  find("chat").replaceChildren(...(lines.length ? lines : [make("li", "Nobody has said anything yet.")]));
  if (atEnd || !log.dataset.live) log.scrollTop = log.scrollHeight;
  log.dataset.live = "true";
});

watch("dref.presence:demo", ({ members }) => {
  find("here").replaceChildren(...Object.keys(members).map((name) => make("li", name)));
});

watch("demo.truth", (facts) => {
  find("truth").replaceChildren(...Object.entries(facts).map(([name, fact]) => make("li", `${name} `, make("b", fact))));
});

/** The place of a process on the map; one that the server did not know of gets its own. */
function placeOf(port) {
  const known = document.querySelector(`#nodes [data-port="${CSS.escape(port)}"]`);
  if (known) return known;
  const place = document.querySelector("#nodes li").cloneNode(true);
  place.dataset.port = port;
  place.querySelector("b").textContent = /^\d{1,5}$/.test(port) ? `port ${port}` : port;
  find("nodes").append(place);
  return place;
}

watch("demo.node.*", (node, { name, deleted }) => {
  const place = placeOf(name.replace("demo.node.", ""));
  place.dataset.role = deleted || !node ? "gone" : node.role;
  place.querySelector(".badge").textContent = place.dataset.role;
  place.querySelector("[data-of=pid]").textContent = node ? node.pid : "\u2013";
  place.querySelector("[data-of=lag]").textContent = node ? `${node.lag_ms} ms` : "\u2013";
});

document.addEventListener("dref:change", ({ target }) => {
  if (target.localName === "dref-value" && !matchMedia("(prefers-reduced-motion: reduce)").matches) {
    target.animate([{ color: "var(--accent)" }, {}], { duration: 600, easing: "ease-out" });
  }
});
