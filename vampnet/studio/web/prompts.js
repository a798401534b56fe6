// Presets, and the tools for tempo and bar line.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const TAPS = 4;
  const PAUSE = 2500; // milliseconds after which taps begin anew

  studio.presets = (element, trigger) => {
    studio.fill(element);
    // Gradio gives a group of radio buttons no name, and the window one in English.
    studio.whenThere(() => document.getElementById("control-bars"), (group) => {
      group.setAttribute("aria-label", studio.say("map.bars"));
      document.title = studio.say("page.title");
    });
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) trigger("select", { name: button.dataset.name });
    });
  };

  studio.showPreset = (name) => {
    document.querySelectorAll(".vs-presets button").forEach((button) => {
      button.setAttribute("aria-pressed", String(button.dataset.name === name));
    });
  };

  let track = null;
  studio.showTempo = (tempo, source) => {
    track = source;
    const shown = tempo ? studio.say("map.tempo.bpm", { bpm: Number(tempo.toFixed(1)) }) : studio.say("map.tempo.none");
    document.querySelectorAll(".vs-bpm").forEach((element) => (element.textContent = shown));
    document.querySelectorAll(".vs-tempo button").forEach((button) => (button.disabled = !source));
  };

  studio.tempo = (element, trigger) => {
    studio.fill(element);
    const button = element.querySelector("[data-act=tap]");
    let taps = [];
    let rest = 0;

    function tap() {
      if (button.disabled) return;
      const now = performance.now();
      if (taps.length && now - taps[taps.length - 1].at > PAUSE) taps = [];
      const playing = track && studio.player.isPlaying(track);
      const place = playing ? track.start + studio.player.position() * (track.end - track.start) : null;
      taps = [...taps, { at: now, place }].slice(-32);
      button.textContent = taps.length < TAPS ? studio.say("map.tempo.taps", { count: taps.length }) : studio.say("map.tempo.tap");
      clearTimeout(rest);
      rest = setTimeout(() => (button.textContent = studio.say("map.tempo.tap")), PAUSE);
      if (taps.length < TAPS) return;
      const at = taps.every((one) => one.place !== null) ? taps.map((one) => one.place) : null;
      trigger("select", { act: "tap", taps: taps.map((one) => one.at), at });
    }

    element.addEventListener("click", (event) => {
      const chosen = event.target.closest("button");
      if (chosen && chosen !== button) trigger("select", { act: chosen.dataset.act });
    });
    // On the press, not on its end: this is about time.
    button.addEventListener("pointerdown", tap);
    button.addEventListener("click", (event) => event.detail === 0 && tap()); // a key
    document.addEventListener("keydown", (event) => {
      const field = "input:not([type=range], [type=radio], [type=checkbox]), textarea, select, [contenteditable]";
      const typing = event.target.closest && event.target.closest(field);
      if (studio.keyOf(event) !== "t" || event.repeat || event.ctrlKey || event.metaKey || event.altKey || typing) return;
      if (element.isConnected) tap();
    });
  };
})();
