// One row of the deck: a name to press, the waveform, mute, solo, volume, and a star.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const say = (key, values) => studio.say(`deck.${key}`, values);

  // does: functions hear, touch(share of the wave), draw, mute, solo, volume(value), favour. Returns the row's elements.
  studio.track = (take, name, does) => {
    const { make, button } = studio;
    const key = (letter, what, run) =>
      button("vs-key", letter, run, { title: say(`${what}.hint`), "aria-label": say(what, { name }) });
    const row = { take, wave: studio.bytes(take.wave, Int8Array), looks: null };
    row.root = make("article", `vs-track ${take.number ? "vs-take" : "vs-original"}`);
    row.name = button("vs-name", "", does.hear, { title: say("hear.hint", { key: take.number }) });
    row.name.append(make("kbd", "", String(take.number), { "aria-hidden": "true" }), make("b", "", name));
    row.name.setAttribute("aria-label", say("hear", { name }));
    const stage = make("div", "vs-stage");
    const label = say("wave", { name, seconds: take.seconds.toFixed(1) });
    row.canvas = make("canvas", "", "", { role: "img", "aria-label": label });
    row.head = make("div", "vs-head");
    stage.append(row.canvas, row.head);
    stage.addEventListener("click", (event) => does.touch(event.offsetX / stage.clientWidth));
    row.mute = key("M", "mute", does.mute);
    row.solo = key("S", "solo", does.solo);
    row.volume = studio.fader(say("volume", { name }), 1, does.volume);
    row.star = key("", "favourite", does.favour);
    row.star.classList.add("vs-star");
    row.root.append(row.name, stage, row.mute, row.solo, row.volume, row.star);
    new ResizeObserver(does.draw).observe(row.canvas);
    return row;
  };

  // Its waveform over the beats and bars of the vamp.
  studio.drawTrack = (row, { beats, downbeats }) => {
    if (!row.canvas.clientWidth) return;
    const { pen, width, height } = studio.prepare(row.canvas);
    const style = getComputedStyle(row.root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const bars = new Set(downbeats);
    const { seconds } = row.take;
    for (const time of beats) {
      // Beats a few pixels apart would only make it grey.
      if (time >= seconds || !(bars.has(time) || beats.length * 5 < width)) continue;
      pen.fillStyle = colour(bars.has(time) ? "--vs-bar" : "--vs-beat");
      pen.fillRect(Math.round((time / seconds) * width), 0, bars.has(time) ? 1.5 : 1, height);
    }
    const wave = colour(row.root.classList.contains("vs-on") ? "--vs-accent-line" : "--vs-wave");
    studio.drawWave(pen, row.wave, 0, 2, width, height - 4, () => wave);
  };
})();
