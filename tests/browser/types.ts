/* What a project's own TypeScript does with dref.js. Compiled by test_types.py, never run. */

import {
  compareAndSet,
  configure,
  display,
  DRefElement,
  DRefError,
  increment,
  join,
  leave,
  set,
  status,
  watch,
  type Change,
  type Refusal,
  type Status,
  type View,
} from "../../dref_django/static/dref_django/dref.js";

configure({ url: "/live/" });

const stop: () => void = watch("visits", (value, change) => {
  const anything: View = value;
  const position: [string, number] = [change.epoch, change.version];
  console.log(anything, position, change.deleted ? "gone" : change.name);
});
stop();

watch<number>("visits", (visits) => visits.toFixed());
watch<{ sunny: number }>("moods", ({ sunny }, { name }: Change) => `${name} ${sunny}`);
watch("visits", (value) => {
  // @ts-expect-error a view is no number before it was looked at
  value.toFixed();
});
// @ts-expect-error the callback is not optional
watch("visits");

async function change(): Promise<void> {
  const sum: number | string | undefined = await increment("visits");
  // @ts-expect-error it may be too big for a number
  sum.toFixed();
  await increment("visits", -2);
  // @ts-expect-error an amount is a number
  await increment("visits", "2");
  const version: number = await set("moods", { sunny: 1 });
  // @ts-expect-error a value is what JSON holds
  await set("moods", new Date());
  try {
    await compareAndSet("moods", version, null);
  } catch (error) {
    if (error instanceof DRefError && error.code === "conflict") console.log(error.message);
  }
  await join("lobby");
  const left: Promise<void> = leave("lobby");
  await left;
}
void change();

const since: Date = new Date(status.since);
// @ts-expect-error the module sets it
status.state = "connected";

document.addEventListener("dref:status", ({ detail }) => {
  const copy: Status = detail;
  if (copy.state === "reconnecting" || copy.stale) console.log(since);
  // @ts-expect-error there is no such state
  if (copy.state === "lost") console.log();
});
document.addEventListener("dref:error", ({ detail }) => {
  const refusal: Refusal = detail;
  console.log(refusal.code, refusal.names?.length);
});
document.addEventListener("dref:change", ({ detail, target }) => console.log(detail, target));

const shown: string = display(1234, { format: "number" }) + display(undefined, { empty: "none" });
// @ts-expect-error there is no such format
display(1, { format: "roman" });

class Stock extends DRefElement {
  show(value: View | undefined, change: Change): void {
    this.textContent = `${shown} ${display(value)} ${change.version} ${this.pick({ a: 1 })}`;
  }
}
customElements.define("shop-stock", Stock);
// @ts-expect-error it shows nothing yet
customElements.define("shop-nothing", class extends DRefElement {});

const element: DRefElement | null = document.querySelector("dref-value");
element?.setAttribute("name", "visits");
