// Below the deck: the takes with a star and the session's vamps, each a chip to press.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const say = (key, values) => studio.say(`deck.${key}`, values);

  // The lists, of which none is empty; choose(id, take number or null) is what a chip does.
  studio.shelf = (vamps, shown, choose) => {
    const chip = (className, text, id, number, marks = {}) =>
      studio.button(className, text, () => choose(id, number), { "data-action": `${id}/${number}`, ...marks });
    const section = (name, chips) => {
      const box = studio.make("div", "vs-shelf-list");
      box.append(studio.make("h3", "", say(name)), ...chips);
      return box;
    };
    const stars = vamps.flatMap((one) => one.takes.filter((take) => take.favourite).map((take) => [one, take]));
    const favourites = stars.map(([one, take]) =>
      chip("vs-chip", `★ ${studio.nameOf(take)} · ${studio.titleOf(one)}`, one.id, take.number)
    );
    const all = vamps.map((one) => {
      const count = one.takes.length === 1 ? say("count.one") : say("count", { count: one.takes.length });
      const text = `${studio.titleOf(one)} · ${count} · ${say("seed", { seed: one.settings.seed })}`;
      const marks = { title: studio.storyOf(one), "aria-pressed": String(one.id === shown.id) };
      return chip("vs-chip vs-vamp", text, one.id, null, marks);
    });
    const lists = favourites.length ? [section("favourites", favourites)] : [];
    return vamps.length > 1 ? [...lists, section("vamps", all)] : lists;
  };
})();
