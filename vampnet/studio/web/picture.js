// Draws what stays and what is made: the waveform with its beats, and under it the codebook levels, the coarsest on top.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const GUTTER = 50;
  const RIGHT = 10;
  const AXIS = 22;
  const GAP = 1;
  const BREAK = 5;
  const COLOURS = {
    kept: [246, 178, 76],
    fine: [214, 128, 66],
    made: "#24262e",
    wave: "#555964",
    waveKept: "#f6b24c",
    beat: "rgba(232, 230, 225, 0.16)",
    bar: "rgba(232, 230, 225, 0.5)",
    text: "#a9a9b0",
  };

  function ticks(seconds, room) {
    const most = Math.max(2, Math.floor(room / 64));
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120].find((s) => seconds / s <= most) || 300;
    return Array.from({ length: Math.floor(seconds / step + 1e-6) + 1 }, (_, i) => ({ at: i * step, step }));
  }

  const clock = (at, step) => {
    if (step >= 60) return `${Math.floor(at / 60)}:${String(Math.round(at % 60)).padStart(2, "0")}`;
    return at.toFixed(step < 1 ? 1 : 0) + " s";
  };

  function drawCells(pen, data, kept, left, top, width, height) {
    const { columns, levels, coarse } = data;
    const each = (height - BREAK) / levels;
    const scale = width / columns;
    // Cells of a few pixels get a hairline between them, narrower ones touch.
    const hair = scale >= 4 ? 1 : 0;
    for (let level = 0; level < levels; level++) {
      const y = top + level * each + (level >= coarse ? BREAK : 0);
      pen.fillStyle = COLOURS.made;
      pen.fillRect(left, y, width, each - GAP);
      const [r, g, b] = level < coarse ? COLOURS.kept : COLOURS.fine;
      for (let i = 0; i < columns; ) {
        const share = kept[level * columns + i];
        let j = i + 1;
        while (!hair && j < columns && kept[level * columns + j] === share) j++;
        if (share) {
          pen.fillStyle = `rgba(${r}, ${g}, ${b}, ${share / 255})`;
          pen.fillRect(left + i * scale, y, Math.max((j - i) * scale - hair, 1), each - GAP);
        }
        i = j;
      }
    }
    return each;
  }

  function drawBeats(pen, data, left, top, width, bottom) {
    const bars = new Set(data.downbeats);
    for (const time of data.beats) {
      pen.fillStyle = bars.has(time) ? COLOURS.bar : COLOURS.beat;
      pen.fillRect(Math.round(left + (time / data.seconds) * width), top, 1, bottom - top);
    }
  }

  function drawLabels(pen, data, left, width, waveTop, waveHeight, top, each, height) {
    pen.fillStyle = COLOURS.text;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    const at = (level) => top + (level + 0.5) * each - GAP / 2 + (level >= data.coarse ? BREAK : 0);
    for (const level of [0, data.coarse, data.levels - 1]) pen.fillText(String(level), left - 8, at(level));
    const words = [
      ["wave", waveTop + waveHeight / 2],
      ["coarse", (at(0) + at(data.coarse - 1)) / 2],
      ["fine", (at(data.coarse) + at(data.levels - 1)) / 2],
    ];
    pen.textAlign = "center";
    for (const [word, y] of words) {
      pen.save();
      pen.translate(11, y);
      pen.rotate(-Math.PI / 2);
      pen.fillText(word, 0, 0);
      pen.restore();
    }
    pen.textBaseline = "alphabetic";
    for (const { at: time, step } of ticks(data.seconds, width)) {
      const x = left + (time / data.seconds) * width;
      pen.textAlign = x > left + width - 16 ? "right" : time === 0 ? "left" : "center";
      pen.fillText(clock(time, step), Math.min(x, left + width), height - 6);
    }
  }

  studio.picture = (element, props, watch) => {
    const figure = element.querySelector(".vs-picture");
    const canvas = figure.querySelector("canvas");
    const sentence = figure.querySelector(".vs-sentence");
    const play = figure.querySelector(".vs-play");
    const head = figure.querySelector(".vs-head");
    let data = null;
    let kept = null;
    let wave = null;

    function draw() {
      if (!data || !canvas.clientWidth) return;
      const { pen, width, height } = studio.prepare(canvas);
      const waveTop = 10;
      const waveHeight = Math.round(height * 0.27);
      const top = waveTop + waveHeight + 10;
      const room = width - GUTTER - RIGHT;
      const columnKept = (share) => kept[Math.min(data.columns - 1, Math.floor(share * data.columns))] > 127;
      if (wave.length) {
        const colour = (share) => (columnKept(share) ? COLOURS.waveKept : COLOURS.wave);
        studio.drawWave(pen, wave, GUTTER, waveTop, room, waveHeight, colour);
      } else {
        pen.fillStyle = COLOURS.wave;
        pen.fillRect(GUTTER, waveTop + waveHeight / 2, room, 1);
        pen.clearRect(GUTTER + room / 2 - 130, waveTop, 260, waveHeight);
        pen.fillStyle = COLOURS.text;
        pen.font = "13px system-ui, sans-serif";
        pen.textAlign = "center";
        pen.fillText("Your clip will show here", GUTTER + room / 2, waveTop + waveHeight / 2 + 5);
      }
      const each = drawCells(pen, data, kept, GUTTER, top, room, height - AXIS - top);
      drawBeats(pen, data, GUTTER, waveTop, room, height - AXIS);
      drawLabels(pen, data, GUTTER, room, waveTop, waveHeight, top, each, height);
    }

    function show() {
      const value = props.value || {};
      figure.classList.toggle("vs-problem", Boolean(value.problem));
      if (value.problem) {
        sentence.textContent = value.problem;
        return;
      }
      if (!value.kept) return;
      if (data && data.track && studio.player.isWanted(data.track) && !sameTrack(data.track, value.track)) studio.player.stop();
      data = value;
      kept = studio.bytes(value.kept, Uint8Array);
      wave = studio.bytes(value.wave, Int8Array);
      sentence.textContent = value.sentence + (value.waiting ? " Finding the beats …" : "");
      canvas.setAttribute("aria-label", `${value.name || "No source yet"}, ${value.seconds.toFixed(1)} s. ${value.sentence}`);
      document.querySelectorAll(".vs-presets button").forEach((button) => {
        button.setAttribute("aria-pressed", String(button.dataset.name === value.preset));
      });
      draw();
      buttons();
      figure.dataset.drawn = String(Number(figure.dataset.drawn || 0) + 1);
    }

    const sameTrack = (a, b) => Boolean(a && b && a.sound === b.sound && a.start === b.start && a.end === b.end);

    function buttons() {
      const on = Boolean(data && data.track && studio.player.isWanted(data.track));
      play.disabled = !(data && data.track);
      play.textContent = on ? "Stop source" : "Play source";
      play.setAttribute("aria-label", on ? "Stop the source" : "Play the source as a loop");
      play.classList.toggle("vs-on", on);
    }

    const run = (share) => studio.player.start(data.track, share).catch((error) => (sentence.textContent = error.message));
    play.addEventListener("click", () => (studio.player.isWanted(data.track) ? studio.player.stop() : run(null)));
    canvas.addEventListener("click", (event) => {
      const share = (event.offsetX - GUTTER) / (canvas.clientWidth - GUTTER - RIGHT);
      if (data && data.track && share >= 0 && share < 1) run(share);
    });
    studio.player.onChange(figure, buttons);
    studio.follow(head, () => data && data.track, (share) => `${GUTTER + share * (canvas.clientWidth - GUTTER - RIGHT)}px`);
    new ResizeObserver(draw).observe(canvas);
    watch("value", show);
    show();
  };
})();
