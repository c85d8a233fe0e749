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

/** What `dref:error` events carry: something that the server refused, other than to the calls below. */
export interface Refusal {
  type: "error";
  code: string;
  message: string;
  names?: string[];
  prefixes?: string[];
  rooms?: string[];
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

/**
 * Why a call below was refused or could not be answered: `code` is the protocol's word for it, "forbidden", "conflict",
 * "overflow", ... or, from dref.js itself,
 * - "outcome-unknown": the connection broke after it was sent, so the change may have been made or not; it is never sent
 *   again (the protocol has this code, too, for when the back end's connection broke);
 * - "unavailable": there was no connection within 10 seconds; it was not sent, and is not sent later.
 */
export class DRefError extends Error {
  constructor(refusal: { code: string; message: string });
  readonly name: "DRefError";
  readonly code: string;
}

/**
 * Adds to a counter, at most once, where the policy allows `increment`. Resolves with the sum: digits where it is too
 * big for a number, undefined for a counter in stripes. Rejects with `DRefError`.
 */
export function increment(name: string, amount?: number): Promise<number | string | undefined>;

/**
 * Sets the value, at most once, where the policy allows `set`. Resolves with its version. Rejects with `DRefError`, or
 * `TypeError` for what JSON cannot hold.
 */
export function set(name: string, value: View): Promise<number>;

/**
 * Sets the value if `version` (`change.version`; 0: there is none) is still the one that is stored, at most once, where
 * the policy allows `compare_and_set`. Resolves with the new version. Rejects like `set`; with the code "conflict" when
 * there is another version.
 */
export function compareAndSet(name: string, version: number, value: View): Promise<number>;

/**
 * The page is in the room until it leaves it or is gone; after a reconnection it joins again by itself. Resolves when it
 * is in, however long there is no connection. Rejects with `DRefError` when the server refuses; then it is not.
 */
export function join(room: string): Promise<void>;

/** The page is not in the room any more, however often it joined. Resolves when the server has answered. */
export function leave(room: string): Promise<void>;

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
