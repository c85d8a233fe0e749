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
  /** Since when, in milliseconds as of `Date.now()`. */
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

declare global {
  interface DocumentEventMap {
    "dref:status": CustomEvent<Status>;
    "dref:error": CustomEvent<Refusal>;
  }
}
