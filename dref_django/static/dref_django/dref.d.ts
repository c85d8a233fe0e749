/** Types of dref.js. A value is the JSON view of the ref's value; see docs/live.md. */

export type View = null | boolean | number | string | View[] | { [key: string]: View };

export interface Change {
  /** Which ref; of interest to those who watch a prefix. */
  name: string;
  /** Rising with each change within one epoch. */
  version: number;
  epoch: string;
  /** There is no value now; `value` is the ref's default. */
  deleted: boolean;
}

export interface Status {
  state: "idle" | "connecting" | "connected" | "reconnecting";
  /** The server has lost its own connection to the back end: values may be old. */
  stale: boolean;
  /** From when on values are current, or from when on they may be old: milliseconds as of `Date.now()`. */
  since: number;
}

export interface DisplayOptions {
  format?: "number" | "";
  on?: string;
  off?: string;
  empty?: string;
}

/** What `dref:error` events carry: something that the server refused. */
export interface Refusal {
  type: "error";
  code: string;
  message: string;
  names?: string[];
  prefixes?: string[];
}

/** Where the connection stands. Each change is a `dref:status` event on `document`. */
export const status: Readonly<Status>;

/** Another path or address of the websocket than the one in the page's script tag. Call it before the first watch. */
export function configure(options: { url?: string }): void;

/**
 * Calls back with the value of the ref, at once when it is known, and after every change; only the newest value when
 * the page or the network is slow. A name that ends in "*" is a prefix. Returns a function that ends it.
 */
export function watch<T extends View = View>(name: string, callback: (value: T, change: Change) => void): () => void;

/** A value as `<dref-value>` shows it. */
export function display(value: View | undefined, options?: DisplayOptions): string;

/**
 * The base of the elements, and of your own: `show` is called with the value of the ref that the attribute `name` names,
 * or with the part of it that the dotted path in `field` leads to, from when the element is on a page until it leaves.
 */
export abstract class DRefElement extends HTMLElement {
  static observedAttributes: string[];
  connectedCallback(): void;
  disconnectedCallback(): void;
  attributeChangedCallback(name?: string, before?: string | null, now?: string | null): void;
  /** The part of a value that `field` leads to. */
  pick(value: View): View | undefined;
  abstract show(value: View | undefined, change: Change): void;
}

/** `dref:change` events of an element: what it shows has changed. They bubble. */
export type ChangeEvent = CustomEvent<View | undefined>;

declare global {
  interface HTMLElementTagNameMap {
    "dref-value": DRefElement;
    "dref-flag": DRefElement;
    "dref-chart": DRefElement;
    "dref-status": HTMLElement;
  }
  interface DocumentEventMap {
    "dref:status": CustomEvent<Status>;
    "dref:error": CustomEvent<Refusal>;
    "dref:change": ChangeEvent;
  }
}
