// What is typed beyond the ends of a control is its end, and nothing is what stood there before, once it is typed: until then the
// server need not hear of it.
(() => {
  "use strict";
  const FIELD = "[id^=control-] input[type=number]";
  const before = new WeakMap();

  // What a field should hold; null where it holds it.
  function wrong(field) {
    const given = field.valueAsNumber;
    const end = (text, none) => (text === "" ? none : Number(text));
    const kept = Number.isNaN(given) ? before.get(field) : given;
    if (kept === undefined) return null;
    const within = Math.min(Math.max(kept, end(field.min, -Infinity)), end(field.max, Infinity));
    return within === given ? null : within;
  }

  const listen = (name, act) =>
    document.addEventListener(name, (event) => {
      const field = event.target;
      if (!(field instanceof Element) || !field.matches(FIELD)) return;
      const within = wrong(field);
      if (within !== null) act(event, field, within);
      else if (field.value !== "") before.set(field, field.valueAsNumber);
    }, true); // before Gradio's own

  listen("focusin", () => {});
  listen("input", (event) => event.stopImmediatePropagation());
  listen("change", (event, field, within) => {
    field.value = within;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
})();
