/* dref-chart.js: what <dref-chart> draws. dref.js loads it when there is one on the page. Apache-2.0; uPlot is MIT. */

import uPlot from "./vendor/uplot/uPlot.js";

const UNITS = { "": 1, ms: 0.001, s: 1, m: 60, h: 3600 };
const POINTS = 600; // the window is cut into so many pieces; of the changes within one the last counts
const TICK = 1000; // milliseconds after which time itself moves the chart
const SOONEST = 100; // milliseconds from one drawing to the next

const STEPS = [...Array(28).keys()].flatMap((power) => [1, 2, 5].map((step) => Number(`${step}e${power - 12}`)));

// uPlot needs these rules; the others of its style sheet are for legends and zooming.
const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
  :host { display: block; position: relative; min-block-size: 5rem; }
  :host([hidden]) { display: none; }
  .frame { position: absolute; inset: 0; overflow: hidden; }
  .uplot, .uplot * { box-sizing: border-box; }
  .u-wrap { position: relative; }
  .u-over, .u-under, .u-axis { position: absolute; }
  .u-under { overflow: hidden; }
  .uplot canvas { display: block; position: relative; inline-size: 100%; block-size: 100%; }
  .u-cursor-x, .u-cursor-y, .u-cursor-pt { position: absolute; inset: 0 auto auto 0; pointer-events: none; }
  .u-cursor-x { block-size: 100%; border-inline-end: 1px dashed currentColor; opacity: 0.5; }
  .u-cursor-pt { border-radius: 50%; }
  .u-select, .u-cursor-y, .u-off { display: none; }
  .line { color: var(--dref-chart-color, currentColor); }
  .fill { color: color-mix(in srgb, var(--dref-chart-color, currentColor) 14%, transparent); }
  .grid { color: color-mix(in srgb, currentColor 14%, transparent); }
  .unseen { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); }
  output {
    position: absolute; inset: 0 0 auto auto; padding-inline: 0.4em; font-size: 0.8rem;
    font-variant-numeric: tabular-nums; background: Canvas; color: CanvasText; border-radius: 0.3em;
  }
  output:empty { display: none; }
`);

/** "90", "90s", "5m", "1h" as seconds; a minute for anything else. */
export function seconds(text) {
  const [, number, unit] = /^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|)\s*$/.exec(text || "") || [];
  return Number(number) * UNITS[unit] || 60;
}

const scale = (value) => (typeof value === "boolean" ? Number(value) : value);
const language = () => document.documentElement.lang || undefined;
const now = () => Date.now() / 1000;

function number(value) {
  const far = Math.abs(value) >= 1e6 ? { notation: "compact", maximumFractionDigits: 2 } : { maximumFractionDigits: 2 };
  return new Intl.NumberFormat(language(), far).format(value);
}

const clock = (at) => new Intl.DateTimeFormat(language(), { timeStyle: "medium" }).format(at * 1000);

/**
 * The values of one ref over the last seconds, as steps: a value holds until the next. While the page had no
 * connection there is a hole. At most twice `POINTS` values are kept; what is out of the window is forgotten.
 */
export class Chart {
  constructor(host, status) {
    this.host = host;
    this.status = status;
    this.times = [];
    this.values = []; // null: not known
    this.selected = null; // the time at the keyboard's cursor
    this.listeners = [
      [document, "dref:status", () => this.connection()],
      [document, "visibilitychange", () => this.soon()],
      [matchMedia("(prefers-color-scheme: dark)"), "change", () => this.recolour()],
      [host, "keydown", (event) => this.key(event)],
      [host, "blur", () => this.select(null)],
    ];
    this.build();
  }

  build() {
    const root = this.host.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [SHEET];
    const part = (tag, className) => {
      const element = document.createElement(tag);
      element.className = className;
      root.append(element);
      return element;
    };
    this.frame = part("div", "frame");
    this.frame.setAttribute("aria-hidden", "true");
    this.inks = { line: part("i", "line"), fill: part("i", "fill"), grid: part("i", "grid") };
    this.summary = part("p", "unseen");
    this.readout = part("output", "");
    this.readout.part = "readout";
    this.sizes = new ResizeObserver(() => this.resize());
  }

  get window() {
    return seconds(this.host.getAttribute("window"));
  }

  start() {
    const { host } = this;
    const label = host.getAttribute("label") || host.getAttribute("name");
    const defaults = { role: "figure", tabindex: "0", "aria-label": `${label}, the last ${host.getAttribute("window") || "60s"}` };
    for (const [name, value] of Object.entries(defaults)) if (!host.hasAttribute(name)) host.setAttribute(name, value);
    for (const [target, type, listener] of this.listeners) target.addEventListener(type, listener);
    this.sizes.observe(host);
    this.timer = setInterval(() => this.soon(), TICK);
    this.recolour();
  }

  stop() {
    for (const [target, type, listener] of this.listeners) target.removeEventListener(type, listener);
    this.sizes.disconnect();
    clearInterval(this.timer);
    clearTimeout(this.drawing);
    this.drawing = 0;
    if (this.plot) this.plot.destroy();
    this.plot = null;
  }

  /** Another value from now on. What is no number leaves a hole. */
  add(value) {
    value = scale(value);
    this.push(typeof value === "number" && Number.isFinite(value) ? value : null);
    this.soon();
  }

  push(value) {
    const at = now();
    const { times, values } = this;
    const close = times.length > 1 && at - times.at(-1) < this.window / POINTS && at - times.at(-2) < this.window / POINTS;
    if (close) {
      values[values.length - 1] = value;
    } else {
      times.push(at);
      values.push(value);
    }
    this.forget(at);
  }

  /** Keeps one point left of the window: its value holds at the left edge. */
  forget(at) {
    const first = this.times.findIndex((time) => time > at - this.window);
    const gone = first < 0 ? this.times.length - 1 : first - 1;
    if (gone > 0) {
      this.times.splice(0, gone);
      this.values.splice(0, gone);
    }
  }

  connection() {
    const isCurrent = this.status.state === "connected" && !this.status.stale;
    if (!this.values.length || isCurrent === (this.values.at(-1) !== null)) return;
    // A value that has not changed meanwhile is not sent again: it is what it was.
    if (isCurrent) this.push(this.known ?? null);
    else {
      this.known = this.values.at(-1);
      this.push(null);
    }
    this.soon();
  }

  soon() {
    if (this.drawing || !this.plot || document.hidden) return;
    this.drawing = setTimeout(() => {
      this.drawing = 0;
      this.draw();
    }, Math.max(0, SOONEST - (performance.now() - (this.drawn || 0))));
  }

  draw() {
    const at = now();
    this.drawn = performance.now();
    this.forget(at);
    this.range = [at - this.window, at];
    const times = this.times.map((time) => Math.max(time, this.range[0]));
    this.plot.setData([[...times, at], [...this.values, this.values.at(-1) ?? null]]);
    this.describe();
    this.point();
  }

  describe() {
    const known = this.values.filter((value) => value !== null);
    const text = known.length
      ? `now ${this.host.textContent}, lowest ${number(Math.min(...known))}, highest ${number(Math.max(...known))}`
      : "no values yet";
    if (this.summary.textContent !== text) this.summary.textContent = text;
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.frame;
    if (this.plot && width && height) this.plot.setSize({ width, height });
    else if (width && height) this.recolour();
  }

  /** Colours come from the page's style sheet, so that a change between light and dark needs another canvas. */
  recolour() {
    const { clientWidth: width, clientHeight: height } = this.frame;
    if (this.plot) this.plot.destroy();
    this.plot = null;
    if (!width || !height) return;
    this.range = [now() - this.window, now()];
    this.plot = new uPlot(this.options(width, height), [[], []], this.frame);
    this.draw();
  }

  options(width, height) {
    const ink = (name) => getComputedStyle(this.inks[name]).color;
    const text = getComputedStyle(this.host).color;
    const font = `11px ${getComputedStyle(this.host).fontFamily}`;
    const grid = { stroke: ink("grid"), width: 1 };
    const axis = { stroke: text, font, ticks: { show: false } };
    return {
      width,
      height,
      padding: [10, 14, 0, 0],
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, y: false, points: { size: 7 } },
      hooks: { setCursor: [() => this.read()] },
      scales: { x: { time: false, range: () => this.range }, y: { range: (_, low, high) => around(low, high) } },
      axes: [
        { ...axis, grid: { show: false }, size: 22, splits: () => this.fractions(), values: (_, at) => at.map(this.ago, this) },
        { ...axis, grid, size: wide, gap: 6, space: 28, incrs: () => this.steps(), values: (_, ticks) => ticks.map(number) },
      ],
      series: [
        {},
        { stroke: ink("line"), fill: ink("fill"), width: 2, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } },
      ],
    };
  }

  /** No half visits: whole numbers are drawn against whole numbers. */
  steps() {
    return this.values.every((value) => value === null || Number.isInteger(value)) ? STEPS.filter(Number.isInteger) : STEPS;
  }

  fractions() {
    const [from, to] = this.range;
    return [from, (from + to) / 2, to];
  }

  ago(at) {
    const past = Math.round(this.range[1] - at);
    if (past <= 0) return "now";
    const [value, unit] = past >= 120 ? [past / 60, "minute"] : [past, "second"];
    const style = { style: "unit", unit, unitDisplay: "narrow", maximumFractionDigits: 1 };
    return `\u2212${new Intl.NumberFormat(language(), style).format(value)}`;
  }

  /** Left and right go from change to change, Home and End to the first and last; Escape lets go. */
  key(event) {
    const known = this.times.filter((time, index) => time > this.range[0] && this.values[index] !== null);
    const here = this.selected === null ? known.length : known.findLastIndex((time) => time <= this.selected);
    const steps = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: known.length - 1 };
    if (event.key === "Escape") return this.select(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    if (known.length) this.select(known[Math.min(Math.max(steps[event.key], 0), known.length - 1)]);
  }

  select(time) {
    this.selected = time;
    if (time !== null) return this.point();
    if (this.plot) this.plot.setCursor({ left: -10, top: -10 }, false); // or the next drawing reads what is under it
    this.readout.textContent = "";
  }

  point() {
    if (this.selected === null || !this.plot) return;
    const index = this.times.findLastIndex((time) => time <= this.selected);
    if (index < 0 || this.selected < this.range[0]) return this.select(null);
    const left = this.plot.valToPos(this.selected, "x") + 0.5;
    this.plot.setCursor({ left, top: this.plot.valToPos(this.values[index] ?? 0, "y") }, false);
    this.tell(this.selected, this.values[index]);
  }

  /** The mouse has moved. */
  read() {
    if (this.selected !== null || !this.plot) return;
    const { left, idx } = this.plot.cursor;
    const index = left >= 0 && idx !== null ? Math.min(idx, this.times.length - 1) : -1;
    if (index < 0) this.readout.textContent = "";
    else this.tell(this.times[index], this.values[index]);
  }

  tell(time, value) {
    const text = value === null || value === undefined ? "" : `${number(value)}, ${clock(time)}`;
    if (this.readout.textContent !== text) this.readout.textContent = text;
  }
}

/** From the lowest to the highest value with some room; a constant is drawn in the middle. */
function around(low, high) {
  if (low === null || low === undefined) return [0, 1];
  if (low === high) return low === 0 ? [0, 1] : [low - Math.abs(low) * 0.1 - 1, high + Math.abs(high) * 0.1 + 1];
  return uPlot.rangeNum(low, high, { min: { pad: 0.1, soft: 0, mode: 3 }, max: { pad: 0.1, soft: 0, mode: 3 } });
}

/** As wide as the longest number beside it. */
function wide(_, labels) {
  return 14 + 6.5 * Math.max(1, ...(labels || []).map((label) => label.length));
}
