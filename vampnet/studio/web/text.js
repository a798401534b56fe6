// The page's sentences in the visitor's language; see vampnet/studio/text.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  // The first language alone, as Gradio's own components do: else one page would speak two.
  const [wanted] = (navigator.language || "en").split("-");
  studio.language = studio.sentences && studio.sentences[wanted] ? wanted : "en";

  // For the voice that reads the page, and for where its lines may break.
  document.documentElement.lang = studio.language;

  // The sentence of a key, with its {values}.
  studio.say = (key, values = {}) => {
    const sentence = studio.sentences[studio.language][key] || studio.sentences.en[key];
    if (sentence === undefined) throw new Error(`No sentence has the key ${key}`);
    return sentence.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  };

  // Calls `then` with what `find` gives, as soon as it gives anything: Gradio lays the page out piece by piece.
  studio.whenThere = (find, then) => {
    const found = find();
    if (found) then(found);
    else setTimeout(() => studio.whenThere(find, then), 200);
  };

  // Fills elements that carry data-say="key" (their text), data-say-title or data-say-label (title, aria-label).
  studio.fill = (root) => {
    for (const [name, attribute] of [["say", ""], ["sayTitle", "title"], ["sayLabel", "aria-label"]]) {
      const marked = `[data-${name.replace(/[A-Z]/, (c) => "-" + c.toLowerCase())}]`;
      for (const element of root.querySelectorAll(marked)) {
        const text = studio.say(element.dataset[name]);
        if (attribute) element.setAttribute(attribute, text);
        else element.textContent = text;
      }
    }
  };
})();
