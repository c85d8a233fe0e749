/* dref.js: the values of refs on a page, kept current over one websocket. Apache-2.0. See docs/live.md. */

const SUBPROTOCOL = "dref.v1";
const STEPS = [0.2, 0.5, 1, 2, 5, 10, 20, 30]; // seconds before each further try; each is shortened by up to a half
const STABLE = 10000; // milliseconds after which a connection is taken for a good one, so that tries start over
const PATIENCE = 20; // seconds until the server has said hello
const WAIT = 10; // seconds for which a change waits for a connection
const REJOIN = 5000; // milliseconds, up to twice as many, after which a room that cannot be joined now is tried again
const BATCH = 30000; // characters of one message, about: half of what the server takes

const script = document.querySelector("script[data-dref-url]");
let url = (script && script.dataset.drefUrl) || "/dref/ws/";

const items = new Map(); // by name what we hold: { text, value, epoch, version, deleted }
const watchers = new Map(); // by name or "prefix*" the set of callbacks
const asked = new Set(); // what the server of this connection was asked to watch
const rooms = new Set(); // those that the page is in, or wants to be
const calls = new Map(); // by id what waits for its answer: { text, room, sent, timer, resolve, reject }
let lastId = 0;
let socket = null;
let ready = false; // the server has said hello
let readyAt = Infinity; // by performance.now()
let fails = 0;
let retry = 0;
let rejoining = 0;
let watchdog = 0;
let silence = PATIENCE;
let flushing = false;

/**
 * Where the connection stands: { state: "idle" | "connecting" | "connected" | "reconnecting", stale, since }.
 * `since` is the moment from which on values are current, or from which on they may be old.
 */
export const status = { state: "idle", stale: false, since: Date.now() };

const isCurrent = () => status.state === "connected" && !status.stale;

function setStatus(state, stale = status.stale) {
  if (state === status.state && stale === status.stale) return;
  const wasCurrent = isCurrent();
  Object.assign(status, { state, stale });
  if (isCurrent() !== wasCurrent) status.since = Date.now();
  document.documentElement.dataset.drefStatus = stale && state === "connected" ? "stale" : state;
  document.dispatchEvent(new CustomEvent("dref:status", { detail: { ...status } }));
}

/** Another path or address of the websocket than the one in the page's script tag. Call it before the first watch. */
export function configure(options) {
  if (options.url) url = options.url;
}

/**
 * Calls back with the value of the ref, at once when it is known, and after every change.
 * A name that ends in "*" is a prefix. Returns a function that ends it.
 */
export function watch(name, callback) {
  const callbacks = watchers.get(name) || new Set();
  const entry = { callback };
  callbacks.add(entry);
  watchers.set(name, callbacks);
  for (const [held, item] of items) {
    if (matches(name, held)) queueMicrotask(() => callbacks.has(entry) && call(entry, held, item));
  }
  schedule();
  return () => {
    callbacks.delete(entry);
    if (!callbacks.size && watchers.get(name) === callbacks) watchers.delete(name);
    schedule();
  };
}

export class DRefError extends Error {
  name = "DRefError";

  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

// Changes are made at most once: what was sent when the connection broke is not sent again, its outcome is unknown.

export const increment = async (name, amount = 1) => (await request({ type: "increment", name, amount })).value;

export const set = async (name, value) => (await request({ type: "set", name, value })).version;

export const compareAndSet = async (name, version, value) =>
  (await request({ type: "compare_and_set", name, version, value })).version;

// To join or leave twice is to do it once, so these are sent anew until they are answered.

export async function join(room) {
  rooms.add(room);
  try {
    await request({ type: "join", rooms: [room] }, room);
  } catch (error) {
    rooms.delete(room);
    throw error;
  }
}

export async function leave(room) {
  rooms.delete(room);
  await request({ type: "leave", rooms: [room] }, room);
}

/** Resolves with the answer. */
function request(message, room) {
  const id = ++lastId;
  const late = { type: "error", id, code: "unavailable", message: `no connection within ${WAIT} s` };
  return new Promise((resolve, reject) => {
    const text = JSON.stringify({ ...message, id }); // may throw
    const timer = room ? 0 : setTimeout(settle, WAIT * 1000, late);
    calls.set(id, { text, room, sent: false, timer, resolve, reject });
    schedule();
  });
}

/** Returns whether the message is the answer to a call. */
function settle(message) {
  const answered = calls.get(message.id);
  if (!answered) return false;
  calls.delete(message.id);
  clearTimeout(answered.timer);
  if (message.type === "error") answered.reject(new DRefError(message));
  else answered.resolve(message);
  return true;
}

const matches = (watched, name) =>
  watched.endsWith("*") ? name.startsWith(watched.slice(0, -1)) : watched === name;

function schedule() {
  if (flushing) return;
  flushing = true;
  queueMicrotask(() => {
    flushing = false;
    if (ready) ask();
    else if (!retry) connect();
  });
}

/** Tells the server the difference between what is watched and what it was asked for. */
function ask() {
  const added = [...watchers.keys()].filter((name) => !asked.has(name));
  const gone = [...asked].filter((name) => !watchers.has(name));
  added.forEach((name) => asked.add(name));
  gone.forEach((name) => asked.delete(name));
  for (const name of items.keys()) if (!isWatched(name)) items.delete(name);
  for (const batch of batches(gone)) send({ type: "unwatch", ...split(batch) });
  for (const batch of batches(added)) send({ type: "watch", ...split(batch), resume: positions(batch) });
  // What we hold under a prefix may be gone by now, and only we know that it was there.
  const held = [...items.keys()].filter((name) => !asked.has(name) && added.some((watched) => matches(watched, name)));
  for (const batch of batches(held)) send({ type: "watch", resume: positions(batch) });
  for (const call of calls.values()) {
    if (!call.sent) socket.send(call.text);
    clearTimeout(call.timer);
    call.sent = true;
  }
}

/** Names in portions, each small enough for one message. */
function* batches(names) {
  let batch = [];
  let size = 0;
  for (const name of names) {
    size += 2 * JSON.stringify(name).length + 80;
    if (size > BATCH && batch.length) {
      yield batch;
      batch = [];
      size = 0;
    }
    batch.push(name);
  }
  if (batch.length) yield batch;
}

const isWatched = (name) => watchers.has(name) || [...watchers.keys()].some((watched) => matches(watched, name));

const split = (batch) => ({
  names: batch.filter((name) => !name.endsWith("*")),
  prefixes: batch.filter((name) => name.endsWith("*")).map((name) => name.slice(0, -1)),
});

function positions(batch) {
  const held = batch.filter((name) => items.has(name));
  return Object.fromEntries(held.map((name) => [name, [items.get(name).epoch, items.get(name).version]]));
}

const send = (message) => socket.send(JSON.stringify(message));

const isWanted = () => watchers.size || rooms.size || calls.size;

function connect() {
  clearTimeout(retry);
  retry = 0;
  if (socket || !isWanted()) return;
  setStatus(fails || status.state === "reconnecting" ? "reconnecting" : "connecting");
  const address = new URL(url, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const opened = new WebSocket(address, SUBPROTOCOL);
  socket = opened;
  silence = PATIENCE;
  opened.onmessage = (event) => {
    if (opened !== socket) return;
    receive(JSON.parse(event.data));
    listen();
  };
  opened.onclose = (event) => opened === socket && lost(event.code);
  listen();
}

/** A half-open connection looks alive to the browser: what is silent for too long is given up. */
function listen() {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => {
    const old = socket;
    lost(0);
    if (old) old.close();
  }, silence * 1000);
}

function lost(code) {
  socket = null;
  ready = false;
  asked.clear();
  clearTimeout(watchdog);
  setStatus("reconnecting");
  for (const [id, call] of calls) {
    if (call.room) call.sent = false;
    else if (call.sent) settle({ type: "error", id, code: "outcome-unknown", message: "the connection broke" });
  }
  // Not after each success: a server that accepts and then closes would be tried five times a second.
  if (performance.now() - readyAt > STABLE) fails = 0;
  readyAt = Infinity;
  if (code === 4429) fails = Math.max(fails, 5);
  const step = STEPS[Math.min(fails++, STEPS.length - 1)];
  clearTimeout(retry);
  retry = setTimeout(connect, step * 1000 * (1 - Math.random() / 2));
}

function receive(message) {
  if (settle(message)) return;
  const item = items.get(message.name);
  switch (message.type) {
    case "hello":
      silence = 2.5 * message.heartbeat;
      ready = true;
      readyAt = performance.now();
      setStatus("connected", false);
      rejoin();
      return ask();
    case "snapshot":
      return isWatched(message.name) && hold(message, message.text, message.epoch);
    case "splice": {
      if (!item) return;
      const fits = item.version === message.base && message.end <= item.text.length;
      const text = fits && item.text.slice(0, message.start) + message.insert + item.text.slice(message.end);
      if (fits && text.length === message.size) return hold(message, text, item.epoch);
      return send({ type: "resync", names: [message.name] });
    }
    case "ping":
      send({ type: "pong", ping: message.ping });
      return setStatus("connected", Boolean(message.stale));
    case "error":
      if (message.rooms) lostRooms(message);
      console.warn(`dref: ${message.message}`, message);
      document.dispatchEvent(new CustomEvent("dref:error", { detail: message }));
  }
}

/** A page whose connection broke has left its rooms. */
function rejoin() {
  if (!ready) return;
  const called = [...calls.values()].map(({ room }) => room); // these ask for themselves
  for (const batch of batches([...rooms].filter((room) => !called.includes(room)))) send({ type: "join", rooms: batch });
}

/** The server says, unasked, that the page is not in these rooms: for good, or because it cannot write it now. */
function lostRooms({ code, rooms: lost }) {
  if (code === "forbidden" || code === "too-many") return lost.forEach((room) => rooms.delete(room));
  clearTimeout(rejoining);
  rejoining = setTimeout(rejoin, REJOIN * (1 + Math.random()));
}

function hold(message, text, epoch) {
  const { name, version, deleted = false } = message;
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return send({ type: "resync", names: [name] }); // a splice that met another text of the same length
  }
  const item = { text, value, epoch, version, deleted };
  items.set(name, item);
  for (const [watched, callbacks] of [...watchers]) {
    if (matches(watched, name)) for (const entry of [...callbacks]) call(entry, name, item);
  }
}

function call(entry, name, { value, version, epoch, deleted }) {
  try {
    entry.callback(value, { name, version, epoch, deleted });
  } catch (error) {
    console.error(error);
  }
}

/** Tries at once instead of at the next step: there may be a network again, or somebody looks. */
function hurry() {
  if (document.visibilityState !== "hidden") connect();
}

addEventListener("online", hurry);
addEventListener("pageshow", hurry);
document.addEventListener("visibilitychange", hurry);

const EMPTY = "\u2013";
const language = () => document.documentElement.lang || undefined;

/** A value as <dref-value> shows it; the server's template tag writes the same. */
export function display(value, { format = "", on = "on", off = "off", empty = EMPTY } = {}) {
  if (value === null || value === undefined || value === "") return empty;
  if (typeof value === "boolean") return value ? on : off;
  if (format === "number" && (typeof value === "number" || /^-?\d+$/.test(value))) {
    return new Intl.NumberFormat(language()).format(typeof value === "string" ? BigInt(value) : value);
  }
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/**
 * The base of the elements, and of your own: `show(value, change)` is called with the value of the ref `name`, or with
 * the part of it that the dotted path `field` leads to.
 */
export class DRefElement extends HTMLElement {
  static observedAttributes = ["name", "field"];

  connectedCallback() {
    const name = this.getAttribute("name");
    const show = (value, change) => this.show(this.pick(value), change);
    this.unwatch = name ? watch(name, show) : () => {};
  }

  disconnectedCallback() {
    this.unwatch();
    this.unwatch = null;
  }

  attributeChangedCallback() {
    if (!this.unwatch) return; // before it is on a page
    this.unwatch();
    DRefElement.prototype.connectedCallback.call(this);
  }

  pick(value) {
    for (const step of (this.getAttribute("field") || "").split(".").filter(Boolean)) value = value?.[step];
    return value;
  }
}

/** <dref-value name="visits" format="number" field="a.b" on="open" off="closed" empty="none">42</dref-value> */
class DRefValue extends DRefElement {
  static observedAttributes = ["name", "field", "format", "on", "off", "empty"];

  show(value) {
    const options = {};
    for (const key of ["format", "on", "off", "empty"]) {
      if (this.hasAttribute(key)) options[key] = this.getAttribute(key);
    }
    const text = display(value, options);
    if (this.textContent === text) return;
    this.textContent = text;
    this.dispatchEvent(new CustomEvent("dref:change", { detail: value, bubbles: true }));
  }
}

/** <dref-flag name="maintenance" [when="off"] [hidden]>shown while it is on (off)</dref-flag> */
class DRefFlag extends DRefElement {
  static observedAttributes = ["name", "field", "when"];

  show(value) {
    // As in Python: what is empty is off.
    const isOn = Boolean(value && typeof value === "object" ? Object.keys(value).length : value);
    const hidden = isOn === (this.getAttribute("when") === "off");
    if (this.hidden === hidden) return;
    this.hidden = hidden;
    this.dispatchEvent(new CustomEvent("dref:change", { detail: value, bubbles: true }));
  }
}

const WORDS = {
  idle: "",
  connecting: "connecting",
  connected: "live",
  reconnecting: "reconnecting, values as of {since}",
  stale: "values may be old since {since}",
};

/** <dref-status connected="live" reconnecting="values as of {since}">needs JavaScript</dref-status> */
class DRefStatus extends HTMLElement {
  connectedCallback() {
    if (!this.hasAttribute("role")) this.setAttribute("role", "status");
    this.listener = () => this.show();
    document.addEventListener("dref:status", this.listener);
    this.show();
  }

  disconnectedCallback() {
    document.removeEventListener("dref:status", this.listener);
  }

  show() {
    const state = status.state === "connected" && status.stale ? "stale" : status.state;
    const since = new Intl.DateTimeFormat(language(), { timeStyle: "medium" }).format(status.since);
    const text = (this.getAttribute(state) ?? WORDS[state]).replace("{since}", since);
    this.dataset.state = state;
    if (this.textContent !== text) this.textContent = text;
  }
}

/**
 * <dref-chart name="visits" window="60s" label="Visits">42</dref-chart>
 * What draws is in a module of its own, which only a page with a chart loads. Until then, and without it, the text
 * inside is kept current.
 */
class DRefChart extends DRefValue {
  connectedCallback() {
    super.connectedCallback();
    if (this.chart) this.chart.start();
    this.loading ??= import(script?.dataset.drefChart || new URL("dref-chart.js", import.meta.url))
      .then(({ Chart }) => {
        this.chart = new Chart(this, status);
        if (this.last !== undefined) this.chart.add(this.last);
        if (this.isConnected) this.chart.start();
      })
      .catch(console.error);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    if (this.chart) this.chart.stop();
  }

  show(value) {
    super.show(value);
    this.last = value;
    if (this.chart) this.chart.add(value);
  }
}

const elements = { value: DRefValue, flag: DRefFlag, status: DRefStatus, chart: DRefChart };
for (const [name, element] of Object.entries(elements)) {
  if (!customElements.get(`dref-${name}`)) customElements.define(`dref-${name}`, element);
}
